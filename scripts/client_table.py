"""Compare the results of `scripts/conformance clients` with the table in server/docs/clients.md.

    python scripts/client_table.py RESULTS [--write]

RESULTS is a folder of JUnit files: pytest's, and one of `node --test` for each client in Node. With
`--write` the table is replaced. The exit code is 1 if a test failed or the table differs. Clients that
were not run keep their lines.
"""

import argparse
import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "server/docs/clients.md"
TABLE = re.compile(r"(<!-- clients -->\n).*?(<!-- end of clients -->)", re.DOTALL)
TESTS = ("text", "stream", "picture", "object", "tools")
HEAD = ["| Client | Version | Text | Stream | Picture | Object | Tool loop |", "|" + " --- |" * 7]
# File name: package and its form.
CLIENTS = {
    "openai": ("openai", "openai (Python), chat completions"),
    "openai_async": ("openai", "openai (Python), asynchronous"),
    "openai_responses": ("openai", "openai (Python), responses"),
    "openai_node": ("openai", "openai (Node)"),
    "anthropic": ("anthropic", "anthropic (Python)"),
    "ai_sdk": ("ai", "Vercel AI SDK, `@ai-sdk/openai-compatible`"),
    "langchain": ("langchain-openai", "LangChain, `langchain-openai`"),
    "langchain_node": ("@langchain/openai", "LangChain (Node), `@langchain/openai`"),
    "litellm": ("litellm", "LiteLLM"),
    "litellm_proxy": ("litellm", "LiteLLM proxy, from openai (Python)"),
    "pydantic_ai": ("pydantic-ai-slim", "Pydantic AI"),
}
NODE = ("openai_node", "ai_sdk", "langchain_node")


def pins(name: str) -> dict[str, str]:
    """The versions in a file of scripts/constraints, by package."""
    lines = (ROOT / f"scripts/constraints/{name}.txt").read_text(encoding="utf-8").splitlines()
    return {package.lower(): version for package, _, version in (x.partition("==") for x in lines)}


def versions() -> dict[str, str]:
    """The pinned version of each client."""
    package = (ROOT / "tests/conformance/node/package.json").read_text(encoding="utf-8")
    node = dict.fromkeys(NODE, json.loads(package)["dependencies"])
    pinned = node | {"litellm_proxy": pins("litellm")}
    python = pins("clients")
    return {client: pinned.get(client, python)[name] for client, (name, _) in CLIENTS.items()}


def results(folder: Path) -> dict[str, dict[str, bool]]:
    """The tests of each client by name, and whether they passed."""
    found: dict[str, dict[str, bool]] = {}
    for path in folder.glob("*.xml"):
        for case in ET.parse(path).getroot().iter("testcase"):
            module = case.attrib["classname"].rpartition(".")[2]
            client = path.stem if path.stem in NODE else module.removeprefix("test_")
            name = case.attrib["name"].removeprefix("test_")
            has_failed = any(child.tag in ("failure", "error") for child in case)
            found.setdefault(client, {})[name] = not has_failed
    return found


def line(client: str, passed: dict[str, bool], version: str) -> str:
    marks = ["yes" if passed.get(test) else "no" for test in TESTS]
    return f"| {CLIENTS[client][1]} | {version} | {' | '.join(marks)} |"


def main() -> int:
    """Print the table, and compare or write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    old = {cells[1].strip(): row for row in text.splitlines() if len(cells := row.split("|")) == 9}
    pinned, found, rows = versions(), results(options.results), []
    for client, (_, title) in CLIENTS.items():
        if client in found:
            rows.append(line(client, found[client], pinned[client]))
        elif title in old:
            print(f"{title}: not run")
            rows.append(old[title])
    is_good = all(set(TESTS) <= set(x) and all(x.values()) for x in found.values())
    table = "\n".join(HEAD + rows)
    print(table)
    new = TABLE.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)
    if options.write:
        PAGE.write_text(new, encoding="utf-8")
    elif new != text:
        print(f"{PAGE.name} has another table: run scripts/conformance clients --write")
        is_good = False
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
