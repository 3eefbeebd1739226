"""Draw our share of LMDeploy's figures as an SVG, from a file that `scripts/bench --json` has written.

python -m scripts.side_by_side.plot bench.json benchmarks.svg
"""

import json
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from scripts.load.figures import median, ratio

__all__ = ["draw", "shares_of"]

# The figure that is drawn for the measurements of a part.
_SHOWN = {
    "streams of text": ("loop_us_per_frame", "CPU of the event loop a chunk"),
    "requests": ("process_ms_per_request", "CPU of all threads a request"),
    "streams beside pictures": ("excess_p99_ms", "gap's p99 over the pace"),
}
_WIDTH, _LABELS, _ROW, _BAR, _TOP = 900, 520, 26, 16, 30  # pixels


def shares_of(records: list[dict[str, Any]]) -> dict[str, float]:
    """Titles of bars and our median as a share of LMDeploy's, in the order of the records."""
    found: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    for record in records:
        systems = found.setdefault((record["part"], record["measure"]), {})
        figure = _SHOWN.get(record["part"], ("", ""))[0]
        systems.setdefault(record["system"], []).append(record["figures"].get(figure))
    shares = {}
    for (part, measure), systems in found.items():
        share = ratio(median(systems.get("ours", [])), median(systems.get("lmdeploy", [])))
        if share is not None:
            shares[f"{measure}: {_SHOWN[part][1]}"] = share
    return shares


def draw(shares: Mapping[str, float]) -> str:
    """An SVG with a bar for each share; a line marks 1, where LMDeploy is."""
    scale = (_WIDTH - _LABELS - 60) / max(1.0, *shares.values())
    height = _TOP + _ROW * len(shares) + 10
    one = _LABELS + scale
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{one:.0f}" y="16" text-anchor="middle">LMDeploy = 1</text>',
    ]
    for number, (title, share) in enumerate(shares.items()):
        top, width = _TOP + number * _ROW, share * scale
        baseline = top + _BAR - 3
        lines += [
            f'<text x="{_LABELS - 8}" y="{baseline}" text-anchor="end">{escape(title)}</text>',
            f'<rect x="{_LABELS}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="#2b6cb0"/>',
            f'<text x="{_LABELS + width + 6:.1f}" y="{baseline}">{share:.2f}</text>',
        ]
    lines.append(
        f'<line x1="{one:.1f}" x2="{one:.1f}" y1="22" y2="{height - 6}" stroke="#444" stroke-dasharray="4"/>'
    )
    return "\n".join([*lines, "</svg>", ""])


def main(source: str, target: str) -> None:
    records = json.loads(Path(source).read_text())["records"]
    Path(target).write_text(draw(shares_of(records)))


if __name__ == "__main__":
    main(*sys.argv[1:])
