"""Write the generated tables of `server/docs`, between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

    .venv/bin/python scripts/update_docs.py [--check]

With `--check` nothing is written; the exit code is 1 if a table is out of date.
"""

import contextlib
import inspect
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from internvl_server.api.errors import Row, error_rows
from internvl_server.app import create_app
from internvl_server.cli import main as run_command
from internvl_server.doctor.command import all_checks
from internvl_server.engine import cpu, echo, turbomind
from internvl_server.engine.base import EngineHealth, EngineInfo
from internvl_server.planner.models import MODELS, repositories
from internvl_server.planner.support import CPU_TEXT_MODELS
from internvl_server.protocol.chat.request import CHAT_FIELDS
from internvl_server.protocol.completions.request import COMPLETION_FIELDS
from internvl_server.protocol.fields import FieldRow, FieldTable, Foreign
from internvl_server.protocol.fields.foreign import (
    BESIDE_IMAGE_URL,
    BESIDE_VIDEO_URL,
    CONSTRAINT,
    FRAMES,
    MESSAGE,
    TILES,
)
from internvl_server.protocol.messages.request import MESSAGES_FIELDS
from internvl_server.protocol.responses.request import RESPONSES_FIELDS
from internvl_server.protocol.tokenize import TOKENIZE_FIELDS
from internvl_server.settings import Settings
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

CAPABILITIES = {
    "cpu": cpu.CAPABILITIES,
    "echo": echo.CAPABILITIES,
    "turbomind": turbomind.CAPABILITIES,
}
TEXT_MODELS = {
    "qwen2": "Qwen2.5",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3 with experts",
    "internlm2": "InternLM2.5",
    "internlm3": "InternLM3",
}
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
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


def errors_table() -> str:
    """Status, type, code, whether to retry, and meaning of every error."""
    head = ["| Status | `type` | `code` | Retry | Meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(head + sorted({_error_line(row, meaning) for row, meaning in error_rows()}))


def _error_line(row: Row, meaning: str) -> str:
    first = meaning.split("\n\n")[0].replace("\n", " ")
    retry = f"after {row.retry_after_s} s" if row.retry_after_s else "no"
    return f"| {row.status} | `{row.type}` | `{row.code}` | {retry} | {first} |"


def fields_table(table: FieldTable) -> str:
    """Every field of an endpoint that has a meaning, by engine, and the names of all others."""
    engines = sorted(CAPABILITIES)
    head = [
        f"| Field | Takes | {' | '.join(engines)} |",
        f"| --- | --- |{' --- |' * len(engines)}",
    ]
    return "\n".join(
        [
            *head,
            *(_field_line(row, engines) for row in table.rows()),
            "",
            f"Accepted without effect on the answer: {_names(table.bookkeeping)}.",
            "",
            f"Refused, unless the value is neutral (null, `[]`, …): {_names(table.refused)}.",
        ]
    )


def _field_line(row: FieldRow, engines: Sequence[str]) -> str:
    is_supported = [row.needs is None or row.needs in CAPABILITIES[name] for name in engines]
    prefix = "extension: " if row.is_extension else ""
    note = row.note.removesuffix(".").replace("\n", " ")
    return f"| `{row.name}` | {prefix}{note} | {' | '.join('yes' if s else '400' for s in is_supported)} |"


def _names(fields: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in sorted(fields))


def foreign_table() -> str:
    """The fields of other servers: their names here, what is refused, and what is ignored."""
    meanings = _foreign_meanings()
    names = {label: foreign for label, foreign in meanings.items() if foreign.to}
    refused = {label: foreign for label, foreign in meanings.items() if foreign.instead}
    ignored = [label for label in meanings if label not in names and label not in refused]
    return "\n".join(
        [
            *("| Field | Field of this server |", "| --- | --- |"),
            *(
                f"| {label} | `{foreign.to}`{_values(foreign)} |"
                for label, foreign in names.items()
            ),
            "",
            *("| Field | What to use instead | Further neutral values |", "| --- | --- | --- |"),
            *(
                f"| {label} | {foreign.instead} | {_neutral(foreign)} |"
                for label, foreign in refused.items()
            ),
            "",
            f"Hints, ignored, and named unless their value is neutral: {' '.join(ignored)}.",
        ]
    )


def _foreign_meanings() -> dict[str, Foreign]:
    """Each field, with the places where it has a meaning if it has others, in alphabetical order.

    Members of groups are left out where they mean what a field of their name means.
    """
    places: dict[str, list[tuple[Foreign, str]]] = {}
    tables = {place: table.foreign for place, table in ENDPOINTS.items()} | OBJECTS
    for place, members in tables.items():
        for name, foreign in members.items():
            places.setdefault(name, []).append((foreign, place))
    own = {name for table in ENDPOINTS.values() for name in table.implemented}
    found: dict[str, Foreign] = {}
    for name, uses in sorted(places.items()):
        short = name.rpartition(".")[2]
        usual = [foreign for foreign, _ in places.get(short, ()) if short != name]
        for foreign, _ in uses:
            where = ", ".join(place for other, place in uses if other == foreign)
            is_single = all(other == foreign for other, _ in uses) and name not in own
            is_a_field = any(place in ENDPOINTS for _, place in uses)
            suffix = "" if is_single and is_a_field else f" ({where})"
            if foreign not in usual and foreign.to != short:
                found[f"`{name}`{suffix}"] = foreign
    return found


def _values(foreign: Foreign) -> str:
    return "".join(f", `{json.dumps(a)}` is `{json.dumps(b)}`" for a, b in foreign.values)


def _neutral(foreign: Foreign) -> str:
    return ", ".join(f"`{json.dumps(value)}`" for value in foreign.neutral)


def family_table() -> str:
    """The published models: text model, what to serve of each, and on which engines."""
    rows = [
        "| Model | Text model | Repositories of OpenGVLab that can be served | Engines | `--config` |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, model in MODELS.items():
        served = ", ".join(f"`{repository}`" for repository in repositories(model))
        has_cpu = model.text.family in CPU_TEXT_MODELS
        config = f"`{name.lower()}`" if (CONFIGS / f"{name.lower()}.toml").exists() else ""
        engines = ("TurboMind, CPU" if has_cpu else "TurboMind") if served else ""
        cells = name, TEXT_MODELS[model.text.family], served or "none", engines, config
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def plan_table() -> str:
    """The output of `internvl-server plan --markdown`."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        run_command(["plan", "--markdown"])
    return output.getvalue()


def doctor_table() -> str:
    """What each check of `internvl-server doctor` looks for, by the modules of the checks."""
    rows = ["| Checks of | Name | What it checks |", "| --- | --- | --- |"]
    for module, checks in all_checks():
        for number, check in enumerate(checks):
            name, text = check.__name__.replace("_", " "), inspect.getdoc(check) or ""
            rows.append(f"| {'' if number else module} | {name} | {text.removesuffix('.')} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """Name, type, labels and meaning of every metric, in the order of `/metrics`."""
    # An engine that knows its cache.
    engine: Any = SimpleNamespace(
        info=EngineInfo("", 1, 1, frozenset()),
        health=lambda: EngineHealth(is_ready=True, reason="", kv_usage=0.0),
    )
    registry = create_app(Settings(), engine).state.services.registry
    rows = ["| Metric | Type | Labels | Meaning |", "| --- | --- | --- | --- |"]
    for collector in registry._collector_to_names:
        for metric in collector.collect():
            suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
            names = {label for sample in metric.samples for label in sample.labels} - {"le"}
            if isinstance(collector, MetricWrapperBase):  # it may have no samples yet
                names = set(collector._labelnames)
            labels = ", ".join(f"`{name}`" for name in sorted(names))
            kind = "gauge" if metric.type == "info" else metric.type
            rows.append(f"| `{metric.name}{suffix}` | {kind} | {labels} | {metric.documentation} |")
    return "\n".join(rows)


ENDPOINTS = {
    "chat": CHAT_FIELDS,
    "completions": COMPLETION_FIELDS,
    "responses": RESPONSES_FIELDS,
    "messages": MESSAGES_FIELDS,
    "tokenize": TOKENIZE_FIELDS,
}
# Members of other servers in nested objects.
OBJECTS = {
    "a message": MESSAGE,
    "an image's part": BESIDE_IMAGE_URL,
    "a video's part": BESIDE_VIDEO_URL,
    "an image": TILES,
    "a video": FRAMES,
    "`structured_outputs`": CONSTRAINT,
}

TABLES: dict[str, Callable[[], str]] = {
    "doctor": doctor_table,
    "errors": errors_table,
    "fields": partial(fields_table, CHAT_FIELDS),
    "responses_fields": partial(fields_table, RESPONSES_FIELDS),
    "messages_fields": partial(fields_table, MESSAGES_FIELDS),
    "foreign": foreign_table,
    "family": family_table,
    "metrics": metrics_table,
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
