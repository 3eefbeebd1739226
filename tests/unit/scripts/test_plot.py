"""The plot of `scripts/bench` has a bar of the right length for each measurement of both servers."""

import xml.etree.ElementTree as ET
from typing import Any

from scripts.side_by_side.plot import draw, shares_of


def record(part: str, measure: str, system: str, **figures: float | None) -> dict[str, Any]:
    return {"part": part, "measure": measure, "system": system, "figures": figures}


def test_bars_are_medians_as_shares() -> None:
    records = [
        record("start", "ready", "ours", ready_s=1.0),
        *(record("requests", "a <b>", "ours", process_ms_per_request=x) for x in (1.0, 2.0, 9.0)),
        record("requests", "a <b>", "lmdeploy", process_ms_per_request=4.0),
        record("streams of text", "8 streams", "ours", loop_us_per_frame=3.0),
        record("streams of text", "8 streams", "lmdeploy", loop_us_per_frame=None),
    ]
    shares = shares_of(records)
    assert shares == {"a <b>: CPU of all threads a request": 0.5}
    root = ET.fromstring(draw(shares | {"more": 2.0}))
    bars = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("x")]
    widths = [float(bar.get("width", "0")) for bar in bars]
    assert [round(width / widths[0], 1) for width in widths] == [1.0, 4.0]
