"""The course of a run as an SVG: shares of requests by latency, and tokens and requests in flight by time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from internvl_server.bench.measures import Outcome, Record, samples

__all__ = ["draw"]

_WIDTH, _HEIGHT = 860, 300  # pixels of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 40, 45
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a")
_NUM_STEPS = 60
_NUM_TICKS = 5

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Panel:
    """Lines by name, in one pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Points]


def draw(records: Sequence[Record], started_s: float, title: str) -> str:
    """Three panels under each other: latencies, tokens a second, requests in flight.

    Args:
        records: Those of a run; only completed ones are drawn.
        started_s: Start of the run on the records' clock.
        title: Written above.
    """
    done = [record for record in records if record.outcome == Outcome.COMPLETED]
    panels = [_latencies(done), _tokens(done, started_s), _in_flight(done, started_s)]
    height = _HEIGHT * len(panels) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_WIDTH / 2}" y="20" text-anchor="middle" font-size="15">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate(0 {30 + number * _HEIGHT})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _latencies(done: Sequence[Record]) -> _Panel:
    lines = {}
    for metric, name in (("ttft", "first token"), ("e2el", "whole answer")):
        if values := sorted(samples(done, metric)):
            lines[name] = [
                (1000 * value, (rank + 1) / len(values)) for rank, value in enumerate(values)
            ]
    return _Panel("Share of requests answered within", "ms", "share", lines)


def _tokens(done: Sequence[Record], started_s: float) -> _Panel:
    moments = [moment - started_s for record in done for moment in record.chunk_s]
    end = max(moments, default=0.0)
    width = end / _NUM_STEPS
    if not width:
        return _Panel("Chunks a second", "s", "chunks/s", {})
    counts = [0] * (_NUM_STEPS + 1)
    for moment in moments:
        counts[int(moment / width)] += 1
    points = [((at + 0.5) * width, count / width) for at, count in enumerate(counts[:-1])]
    return _Panel("Chunks of answers", "s", "chunks/s", {"chunks": points})


def _in_flight(done: Sequence[Record], started_s: float) -> _Panel:
    changes = [(record.sent_s - started_s, 1) for record in done]
    changes += [(record.ended_s - started_s, -1) for record in done]
    points, current = [], 0
    for moment, change in sorted(changes):
        points += [(moment, current), (moment, current + change)]
        current += change
    return _Panel("Requests in flight", "s", "requests", {"requests": points} if points else {})


def _panel(panel: _Panel) -> list[str]:
    every = [point for points in panel.lines.values() for point in points]
    right = max((x for x, _ in every), default=0) or 1.0
    top = max((y for _, y in every), default=0) or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x_of(value: float) -> float:
        return _LEFT + value / right * wide

    def y_of(value: float) -> float:
        return _TOP + (1 - value / top) * high

    parts = [f'<text x="{_LEFT}" y="{_TOP - 12}" font-size="13">{escape(panel.title)}</text>']
    parts += _axes(panel, right, top, x_of, y_of)
    for number, (name, points) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        at = _WIDTH - _RIGHT - 120 * (len(panel.lines) - number)
        parts.append(f'<text x="{at}" y="{_TOP - 12}" fill="{colour}">{escape(name)}</text>')
    return parts


def _axes(
    panel: _Panel,
    right: float,
    top: float,
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
) -> list[str]:
    parts = []
    bottom = y_of(0)
    for step in range(_NUM_TICKS + 1):
        x, y = right * step / _NUM_TICKS, top * step / _NUM_TICKS
        line = y_of(y)
        parts += [
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{line:.1f}" y2="{line:.1f}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{line + 4:.1f}" text-anchor="end">{y:.3g}</text>',
            f'<text x="{x_of(x):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{x:.4g}</text>',
        ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{bottom + 34:.1f}" text-anchor="middle">{panel.x_label}</text>'
    )
    parts.append(f'<text x="8" y="{_TOP - 12}">{panel.y_label}</text>')
    return parts
