"""All settings as the table the README shows and `python -m internvl_server settings` prints."""

import json

from pydantic import BaseModel

from internvl_server.settings import Settings

__all__ = ["settings_table"]


def settings_table() -> str:
    """Every setting as a Markdown table: key, default, unit and effect."""
    rows = ["| Setting | Default | Effect |", "| --- | --- | --- |"]
    for section, info in Settings.model_fields.items():
        assert isinstance(info.annotation, type), info
        rows += _rows(info.annotation, section)
    return "\n".join(rows)


def _rows(section: type[BaseModel], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, info in section.model_fields.items():
        key = f"{prefix}.{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            rows += _rows(info.annotation, key)
            continue
        default = "the bundled demo model" if key == "model.path" else json.dumps(info.default)
        effect = " ".join((info.description or "").split())
        rows.append(f"| `{key}` | {default} | {effect} |")
    return rows
