"""Rules of the house that no other tool holds."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from internvl_server import errors
from internvl_server.api.errors import ERROR_TABLE, SPECIAL_CODES

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "server" / "internvl_server").rglob("*.py"))


def functions() -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def test_files_are_short() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path for path, size in sizes.items() if size > 300} == set()
    assert statistics.median(sizes.values()) <= 120


def test_functions_are_short() -> None:
    bodies = [node.body[-1].end_lineno - node.body[0].lineno + 1 for node in functions()]
    assert statistics.median(bodies) <= 8
    assert statistics.quantiles(bodies, n=10)[-1] <= 30


def boxes() -> dict[Path, list[str]]:
    """The names of the modules in each package of the server and of the demo model's code."""
    found: dict[Path, list[str]] = {}
    for path in [*MODULES, *sorted((ROOT / "scripts/demo_model").rglob("*.py"))]:
        names = found.setdefault(path.parent, [])
        if path.name != "__init__.py":
            names.append(path.stem)
    return found


def test_a_package_has_at_most_ten_modules() -> None:
    assert {box: len(names) for box, names in boxes().items() if len(names) > 10} == {}


def test_no_module_name_starts_with_a_prefix() -> None:
    """A first word that modules share, or that repeats the name of their package, is a missing folder."""
    for box, names in boxes().items():
        words = [name.split("_")[0] for name in names]
        assert {word for word in words if words.count(word) > 1} == set(), box
        own = {box.name, box.name.removesuffix("s")}
        assert [name for name in names if "_" in name and name.split("_")[0] in own] == [], box


def test_the_engine_contract_is_short() -> None:
    contract = (ROOT / "server/internvl_server/engine/base.py").read_text(encoding="utf-8")
    assert len(contract.splitlines()) <= 100


def test_every_module_says_what_it_exports() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        if path.name in ("__init__.py", "__main__.py"):
            continue
        [exported] = [
            ast.literal_eval(value) for node in tree.body if (value := _value_of_all(node))
        ]
        assert exported == sorted(exported, key=_ruff_order), path


def _value_of_all(node: ast.stmt) -> ast.expr | None:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
        return node.value
    return None


def _ruff_order(name: str) -> tuple[int, str]:
    """Constants, classes, functions: the order ruff sorts `__all__` in."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_every_error_has_a_row() -> None:
    classes = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    missing = [cls for cls in classes if cls not in ERROR_TABLE and cls is not errors.ServerError]
    assert missing == []


def test_the_error_tree_is_drawn_in_full() -> None:
    assert errors.__doc__
    for name in errors.__all__:
        assert name in errors.__doc__, name


def test_every_code_that_is_raised_is_in_the_table() -> None:
    raised = {
        match for p in MODULES for match in re.findall(r'code="([a-z_]+)"', p.read_text("utf-8"))
    }
    assert raised <= SPECIAL_CODES.keys() | {row.code for row in ERROR_TABLE.values()}


def test_only_the_fetcher_and_the_client_commands_dial_out() -> None:
    """`batch`, `bench` and `chat` connect to the address that their user names, and to no other."""
    names = r"httpx2?|httpcore2?|aiohttp|urllib3|requests|urllib\.request"
    clients = re.compile(rf"^\s*(?:import|from) ({names})\b", re.MULTILINE)
    users = {p for p in MODULES if clients.search(p.read_text(encoding="utf-8"))}
    package = ROOT / "server" / "internvl_server"
    commands = {package / "batch", package / "bench", package / "bench/datasets", package / "chat"}
    others = {path for path in users if path.parent not in commands}
    assert others == {package / "media/sources/fetch.py"}
    dials = re.compile(
        r"open_connection|create_(?:datagram|connection)|connect(?:_ex)?\(\(|http\.client|urlopen"
    )
    dialers = {p for p in MODULES if dials.search(p.read_text(encoding="utf-8"))}
    assert dialers == {package / "media/sources/exchange.py"}


def test_nothing_unpickles_or_evaluates() -> None:
    forbidden = re.compile(
        r"\b(?:(?:import|from) (?:pickle|marshal|shelve|dill|cloudpickle|joblib)\b|allow_pickle|torch\.load"
        r"|yaml\.load|eval\(|exec\(|os\.(?:system|popen)|shell=True|trust_remote_code=True)"
    )
    for path in MODULES:
        text = re.sub(r"\.eval\(\)", "", path.read_text(encoding="utf-8"))
        assert not forbidden.search(text), path
