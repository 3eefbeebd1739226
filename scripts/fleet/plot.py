"""Draw what policies do under rising load, as an SVG."""

from collections.abc import Mapping
from html import escape

__all__ = ["draw"]

_PANELS = (
    ("goodput", "answers/s a replica whose first token came within 2 s", 1.0),
    ("ttft_p99_s", "first token, p99 (s)", 1.0),
    ("hit_rate", "requests whose beginning the replica knew (%)", 100.0),
    ("refused", "requests refused (%)", 100.0),
)
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a")
_WIDE, _HIGH, _LEFT, _TOP, _GAP = 400, 170, 50, 70, 60  # pixels of a panel and around it
_TICKS = 4


def draw(results: Mapping[str, Mapping[float, Mapping[str, float]]], title: str) -> str:
    """Four panels, load to the right, a line for each policy."""
    width, height = 2 * (_WIDE + _LEFT + 20), _TOP + 2 * (_HIGH + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="15">{escape(title)}</text>',
    ]
    for number, name in enumerate(results):
        x = _LEFT + number * 150
        lines.append(f'<text x="{x}" y="40" fill="{_COLOURS[number]}">{escape(name)}</text>')
    for number, (key, label, factor) in enumerate(_PANELS):
        x = _LEFT + number % 2 * (_WIDE + _LEFT + 10)
        y = _TOP + number // 2 * (_HIGH + _GAP)
        values = {
            name: {load: factor * figures[key] for load, figures in by_load.items()}
            for name, by_load in results.items()
        }
        lines += [f'<g transform="translate({x} {y})">', *_panel(label, values), "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def _panel(label: str, values: Mapping[str, Mapping[float, float]]) -> list[str]:
    loads = sorted({load for by_load in values.values() for load in by_load})
    top = max(max(by_load.values()) for by_load in values.values()) or 1.0
    right = loads[-1]
    lines = [f'<text x="0" y="-8">{escape(label)}</text>']
    for tick in range(_TICKS + 1):
        y = _HIGH * (1 - tick / _TICKS)
        lines += [
            f'<line x1="0" x2="{_WIDE}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{top * tick / _TICKS:.3g}</text>',
        ]
    for load in loads:
        x = load / right * _WIDE
        lines.append(f'<text x="{x:.1f}" y="{_HIGH + 16}" text-anchor="middle">{load:g}</text>')
    for number, by_load in enumerate(values.values()):
        points = " ".join(
            f"{load / right * _WIDE:.1f},{_HIGH * (1 - value / top):.1f}"
            for load, value in sorted(by_load.items())
        )
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{_COLOURS[number]}" stroke-width="2"/>'
        )
    return lines
