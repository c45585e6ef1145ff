"""The report of a build as one HTML page that needs no other file."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from typing import Any

from dreamactor.page import page, table
from dreamactor.production.report import HEAD, Row, cells, notes, number, sentences

_CLASSES = {"pass": "ok", "FAIL": "bad", "not run": "idle"}
_FACTS = ("made", "runtime", "runtime_version", "weights", "inputs", "inputs_sha256", "key")
_STYLE = """
.ok td:last-child,.ok b{color:#1a7f37}.bad td:last-child,.bad b{color:#b00020;font-weight:bold}
.idle td:last-child{color:#777}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1.5rem}dt{color:#555}dd{margin:0;overflow-wrap:anywhere}
details{margin:.3rem 0}summary{cursor:pointer}
"""


def to_html(summary: dict[str, Any], rows: Sequence[Row]) -> str:
    """The page; every figure in it is in the JSON too."""
    title = f"{summary['preset']} in {summary['precision']} for {summary['target']}"
    verdict = ("ok", "passed") if summary["passed"] else ("bad", "did not pass")
    said = "".join(f"<p>{html.escape(line)}</p>" for line in sentences(summary, rows))
    body = [
        f"<h1>{html.escape(title)}</h1><p class='{verdict[0]}'><b>{verdict[1]}</b></p>{said}",
        table(HEAD, [cells(row) for row in rows], range(2, len(HEAD) - 1), [_CLASSES[row.verdict] for row in rows]),
        f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes(rows))}</ul>",
        *_frames(summary),
        *_layers(rows),
        _facts(summary),
    ]
    return page(f"Engines: {title}", body, _STYLE)


def _frames(summary: dict[str, Any]) -> Iterator[str]:
    """The video's PSNR frame by frame, with the gate it is held to."""
    values: list[float] = summary.get("video_psnr_frames_db", [])
    if not values:
        return
    gates: list[float] = [] if summary["video_gate_db"] is None else [summary["video_gate_db"]]
    low, high = min([*values, *gates]) - 1, max([*values, *gates]) + 1
    width, height, left = 860, 200, 50

    def y(value: float) -> float:
        return 10 + (height - 40) * (high - value) / (high - low)

    step = (width - left) / max(len(values) - 1, 1)
    points = " ".join(f"{left + index * step:.1f},{y(value):.1f}" for index, value in enumerate(values))
    marks = [(value, f"{value:.1f}", left - 6, 4, "#d8dce1") for value in (min(values), max(values))]
    marks += [(value, f"gate {value:g}", width, 14, "#b00020") for value in gates]
    lines = "".join(
        f"<line x1={left} x2={width} y1={y(value):.1f} y2={y(value):.1f} stroke='{colour}' stroke-dasharray='4 3' />"
        f"<text x={at} y={y(value) + below:.1f} text-anchor=end>{label}</text>"
        for value, label, at, below, colour in marks
    )
    yield (
        "<h2>The video's frames against FP32, dB PSNR</h2>"
        f"<svg viewBox='0 0 {width} {height}' font-size=12 fill='#22262b'>{lines}"
        f"<polyline points='{points}' fill=none stroke='#2b6cb0' stroke-width=2 />"
        f"<text x={left} y={height - 8}>frame 0</text>"
        f"<text x={width} y={height - 8} text-anchor=end>{len(values) - 1}</text></svg>"
    )


def _layers(rows: Sequence[Row]) -> Iterator[str]:
    """Each network's quantised layers, the worst first."""
    measured = [row for row in rows if row.facts.get("layer_snr_db")]
    if measured:
        yield "<h2>Layer by layer, SNR against FP32</h2>"
    for row in measured:
        found: dict[str, float | None] = row.facts["layer_snr_db"]  # None where FP32 or the other is not finite
        layers = sorted(found.items(), key=lambda layer: -math.inf if layer[1] is None else layer[1])
        lines = [(name, number(value, "dB")) for name, value in layers]
        worst = f"{row.network}: {len(layers)} layers, the worst {number(layers[0][1], 'dB')}"
        yield f"<details><summary>{html.escape(worst)}</summary>{table(('layer', 'SNR'), lines, {1})}</details>"


def _facts(summary: dict[str, Any]) -> str:
    pairs = [(key.replace("_", " "), str(summary[key])) for key in _FACTS if summary.get(key)]
    items = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in pairs)
    return f"<h2>Made</h2><dl>{items}</dl>"
