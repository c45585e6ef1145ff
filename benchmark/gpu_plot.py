"""The goals of the kernels against a report of `gpu_kernels`, and its plot, which `gpu_plot REPORT.json` redraws."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamactor.benchmark.drawing import COLOURS, FAINT, Drawing, Line, Rectangle, Text
from dreamactor.benchmark.gpu_report import judge

Entry = dict[str, Any]
LABELS, BARS, ROW, WIDTH = 250.0, 520.0, 18.0, 900.0  # pixels
MASKED = ("masked efficient", "masked cudnn", "masked flex")  # PyTorch's ways to compute the face kernel's attention


@dataclass(frozen=True)
class Goal:
    """What is asked of one kernel on one H100; `value` takes the report and a timed entry with its fastest tile."""

    kernel: str
    measure: str
    goal: float
    value: Callable[[Entry, Entry], float | None]


def _best(entry: Entry) -> Entry:
    found: Entry = entry["tiles"][entry["fastest"]]
    return found


def _figure(name: str) -> Callable[[Entry, Entry], float | None]:
    return lambda report, entry: _best(entry).get(name)


def _against(*peers: str) -> Callable[[Entry, Entry], float | None]:
    """Speed against the fastest of the peers named (all, if none is)."""

    def ratio(report: Entry, entry: Entry) -> float | None:
        known = entry.get("peers", {})
        others = [known[name]["ms"] for name in peers or known if "ms" in known.get(name, {})]
        return min(others) / float(_best(entry)["ms"]) if others else None

    return ratio


def _of_dense(report: Entry, entry: Entry) -> float | None:
    dense = [
        float(_best(other)["tflops"])
        for other in report["kernels"]
        if other["kernel"] == "two_segment" and "fastest" in other and other.get("size") == entry.get("size")
    ]
    return float(_best(entry)["tflops"]) / max(dense) if dense else None


GOALS = (
    Goal("two_segment", "tflops", 520.0, _figure("tflops")),
    Goal("two_segment", "speed against the best backend after concatenating", 1.0, _against()),
    Goal("fp8_attention", "tflops", 750.0, _figure("tflops")),
    Goal("norm_rope", "of_peak", 0.85, _figure("of_peak")),
    Goal("face_attention", "speed against masked SDPA", 3.0, _against(*MASKED)),
    Goal("sparse_attention", "of the dense kernel's tflops", 0.85, _of_dense),
    Goal("modulate_norm", "of_peak", 0.85, _figure("of_peak")),
)


def goals(report: Entry) -> list[Entry]:
    """Each goal at each timed case (in TFLOP/s: of head size 128), and what was measured; `met` None where there is no
    figure."""
    found = []
    for goal in GOALS:
        entries = [entry for entry in report["kernels"] if entry["kernel"] == goal.kernel and "fastest" in entry]
        if goal.measure == "tflops":
            entries = [entry for entry in entries if entry.get("size") == 128]
        for entry in entries or [{}]:
            value = goal.value(report, entry) if entry else None
            found.append({
                "kernel": goal.kernel, "case": entry.get("label"), "measure": goal.measure, "value": value,
                "goal": goal.goal, "met": None if value is None else value >= goal.goal,
            })  # fmt: skip
    return found


def plot(report: Entry, path: Path) -> bool:
    """Bars of each timed case, its tiles and its peers, as SVG; False without figures."""
    timed = [entry for entry in report["kernels"] if "fastest" in entry]
    drawing = Drawing(WIDTH, 40)
    title = f"{report['device']}, torch {report['torch']}, triton {report['triton']}, {report['date']}"
    drawing.add(Text((10, 22), title))
    for entry in timed:
        _bars(drawing, entry)
    if timed:
        path.write_text(drawing.svg() + "\n")
    return bool(timed)


def _bars(drawing: Drawing, entry: Entry) -> None:
    """One case, drawn below the others: a bar for each rate."""
    unit, words = ("tflops", "TFLOP/s") if "tflops" in _best(entry) else ("gbps", "GB/s")
    rows = {name: row for name, row in {**entry["tiles"], **entry.get("peers", {})}.items() if unit in row}
    top, largest = drawing.height + 10, max(row[unit] for row in rows.values())
    drawing.add(Text((10, top + 12), f"{entry['kernel']} {entry['label']} ({words})"))
    bottom = top + 20 + ROW * len(rows)
    drawing.add(Line(((LABELS, top + 18), (LABELS, bottom)), FAINT))
    for number, (name, row) in enumerate(rows.items()):
        y, long = top + 20 + ROW * number, BARS * row[unit] / largest
        colour = COLOURS[0] if name in entry["tiles"] else COLOURS[7]
        drawing.add(
            Text((LABELS - 6, y + 12), name, "end"),
            Rectangle((LABELS, y + 2), (long, ROW - 4), colour, f"{row['ms']:.3f} ms"),
            Text((LABELS + long + 6, y + 12), f"{row[unit]:.0f}"),
        )
    drawing.height = bottom


def main(paths: list[str]) -> int:
    """Judge and draw the reports at `paths` again; 1 if one has no figures."""
    drawn = []
    for path in map(Path, paths):
        report = json.loads(path.read_text())
        judge(report)  # not yet done where the run was cut off
        drawn.append(plot(report, path.with_suffix(".svg")))
        print(json.dumps(goals(report), indent=1))
    return 0 if drawn and all(drawn) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
