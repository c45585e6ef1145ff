"""The goals of the kernels against a report of `gpu_kernels`, and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# kernel -> (what is measured, goal); on one H100
GOALS = {
    "two_segment": ("tflops", 520.0),
    "fp8_attention": ("tflops", 750.0),
    "norm_rope": ("of_peak", 0.85),
    "modulate_norm": ("of_peak", 0.85),
}
FACE_SPEEDUP = 3.0
SPARSE_SHARE = 0.85


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal, what was measured, whether it is met; `met` None where there is no figure."""
    found = []
    for entry in report["kernels"]:
        if "fastest" not in entry:
            continue
        best, kernel = entry["tiles"][entry["fastest"]], entry["kernel"]
        if kernel in GOALS and not (kernel == "two_segment" and "D64" in entry["case"]):
            measure, goal = GOALS[kernel]
            found.append(_goal(entry, measure, best.get(measure), goal))
        if kernel == "two_segment":
            others = [row["ms"] for row in entry["peers"].values() if "ms" in row]
            found.append(_goal(entry, "speed against the best backend after concatenating", _ratio(others, best), 1.0))
        if kernel == "face_attention":
            masked = entry["peers"].get("masked efficient", {}).get("ms")
            found.append(_goal(entry, "speed against masked SDPA", _ratio([masked], best), FACE_SPEEDUP))
        if kernel == "sparse_attention":
            found.append(_goal(entry, "of the dense kernel's tflops", _of_dense(report, best), SPARSE_SHARE))
    return found


def _goal(entry: dict[str, Any], measure: str, value: float | None, goal: float) -> dict[str, Any]:
    met = None if value is None else value >= goal
    return {
        "kernel": entry["kernel"],
        "case": entry["case"],
        "measure": measure,
        "value": value,
        "goal": goal,
        "met": met,
    }


def _ratio(others: list[float | None], best: dict[str, Any]) -> float | None:
    known = [value for value in others if value is not None]
    return min(known) / float(best["ms"]) if known else None


def _of_dense(report: dict[str, Any], best: dict[str, Any]) -> float | None:
    dense = [
        float(entry["tiles"][entry["fastest"]]["tflops"])
        for entry in report["kernels"]
        if entry["kernel"] == "two_segment" and "fastest" in entry and "D128" in entry["case"]
    ]
    return float(best["tflops"]) / max(dense) if dense else None


def plot(report: dict[str, Any], path: Path) -> bool:
    """Bars of each timed case, its tiles and its peers; False without matplotlib or without figures."""
    try:
        import matplotlib  # type: ignore[import-not-found,unused-ignore]

        matplotlib.use("Agg")
        from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return False
    timed = [entry for entry in report["kernels"] if "fastest" in entry]
    if not timed:
        return False
    figure, axes = pyplot.subplots(len(timed), 1, figsize=(9, 2.2 * len(timed)), squeeze=False)
    for axis, entry in zip(axes[:, 0], timed, strict=True):
        rows = {**entry["tiles"], **entry["peers"]}
        unit = "tflops" if "tflops" in entry["tiles"][entry["fastest"]] else "gbps"
        names = [name for name, row in rows.items() if unit in row]
        colours = ["tab:blue" if name in entry["tiles"] else "tab:grey" for name in names]
        axis.barh(names, [rows[name][unit] for name in names], color=colours)
        axis.set_title(f"{entry['kernel']} {entry['case']} ({'TFLOP/s' if unit == 'tflops' else 'GB/s'})", fontsize=9)
        axis.tick_params(labelsize=7)
    figure.suptitle(
        f"{report['device']}, torch {report['torch']}, triton {report['triton']}, {report['date']}", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
