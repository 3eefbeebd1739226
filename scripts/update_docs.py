"""Write the generated tables of `server/docs`, between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

    .venv/bin/python scripts/update_docs.py [--check]

With `--check` nothing is written; the exit code is 1 if a table is out of date.
"""

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from internvl_server.api.errors_table import errors_table
from internvl_server.cli import main as run_command
from internvl_server.fields_table import fields_table
from internvl_server.settings import Settings
from pydantic import BaseModel

DOCS = Path(__file__).resolve().parents[1] / "server" / "docs"


def settings_table() -> str:
    """Every setting as a row: key, default and effect."""
    rows = ["| Setting | Default | Effect |", "| --- | --- | --- |"]
    for section, info in Settings.model_fields.items():
        assert isinstance(info.annotation, type), info
        rows += _section_rows(info.annotation, section)
    return "\n".join(rows)


def _section_rows(section: type[BaseModel], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, info in section.model_fields.items():
        key = f"{prefix}.{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            rows += _section_rows(info.annotation, key)
            continue
        default = "the bundled demo model" if key == "model.path" else json.dumps(info.default)
        effect = " ".join((info.description or "").split())
        rows.append(f"| `{key}` | {default} | {effect} |")
    return rows


def plan_table() -> str:
    """The output of `internvl-server plan --markdown`."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        run_command(["plan", "--markdown"])
    return output.getvalue()


TABLES: dict[str, Callable[[], str]] = {
    "errors": errors_table,
    "fields": fields_table,
    "plan": plan_table,
    "settings": settings_table,
}


def updated(text: str) -> str:
    """A page with its tables written anew."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]]().strip()}\n{match[3]}"

    return re.sub(r"(<!-- (\w+):begin -->).*?(<!-- \2:end -->)", table, text, flags=re.DOTALL)


def main() -> int:
    """Update all pages, or name those that are out of date."""
    check, outdated = "--check" in sys.argv, False
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = updated(old)
        if new == old:
            continue
        outdated = True
        if check:
            print(f"{page.name} is out of date: run scripts/update_docs.py", file=sys.stderr)
        else:
            page.write_text(new, encoding="utf-8")
    return int(check and outdated)


if __name__ == "__main__":
    sys.exit(main())
