"""The report's charts, each made from the report alone. Returns (title, what one sees, SVG)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dreamactor.benchmark import svg

Report = Mapping[str, Any]
Chart = tuple[str, str, str]
_ROWS = {"stage": svg.COLOURS[0], "engine": svg.COLOURS[1]}


def charts(report: Report) -> Iterator[Chart]:
    """Every chart there is data for."""
    for group, title in (
        ("engine", "Engines: one segment"), ("stage", "Stages of a clip"), ("pipeline", "Whole clip, against PyTorch"),
        ("networks", "The networks of a clip, without landmarks and MP4, against PyTorch"),
        ("service", "Whole clip, in process and served"), ("peer", "Networks, against PyTorch"),
    ):  # fmt: skip
        rows = latency_bars(report, group)
        if rows:
            yield title, "Median with its 95 % interval; the ticks are p90 and p99.", svg.bars(rows)
    if report["trace"]:
        yield "Where a clip's time goes", "Two segments; hover for what each stretch is.", waterfall(report)
    if report["profiles"]:
        parts = {name: profile["parts"] for name, profile in report["profiles"].items()}
        yield "Where a network's time goes", "ONNX Runtime's profile folded into parts.", svg.stacked(parts)
    if report["limits"]:
        yield "How far from the limit", "Roof measured in the same run; share of it per network.", roofline(report)
    curves = report["scaling"].get("curves", {})
    for unit, label in (("s", "seconds"), ("bytes", "bytes")):
        for axis in dict.fromkeys(curve["axis"] for curve in curves.values() if curve["unit"] == unit):
            chosen = [
                svg.Series(name.split(" / ")[0], tuple(zip(curve["sizes"], curve["values"], strict=True)), _fit(curve))
                for name, curve in curves.items() if curve["axis"] == axis and curve["unit"] == unit
            ]  # fmt: skip
            yield (
                f"{label.capitalize()} against {axis}",
                "Exponent of the fit beside the name.",
                svg.lines(chosen, axis, label),
            )
    if report["service"].get("loads"):
        yield "Under load", "Latency against requests answered a second.", load_curve(report)


def latency_bars(report: Report, group: str) -> list[svg.Bar]:
    """Bars of the timings called `group/...`, in milliseconds."""
    rows = []
    for name, timing in report["timings"].items():
        if not name.startswith(group + "/"):
            continue
        label = name.removeprefix(group + "/")
        median = timing["p50"]
        rows.append(
            svg.Bar(
                label, median["value"], median["low"], median["high"], f"{median['value'] * 1e3:.1f} ms",
                (timing["p90"]["value"], timing["p99"]["value"]), _colour(label),
            )
        )  # fmt: skip
    return rows


def waterfall(report: Report) -> str:
    trace = report["trace"]
    blocks = [
        svg.Block(
            span["name"], span["start"], span["seconds"], _ROWS[span["kind"]],
            _span_title(span),
        )
        for span in sorted(trace["spans"], key=lambda span: (span["kind"] == "engine", span["start"]))
        if span["kind"] in _ROWS
    ]  # fmt: skip
    return svg.waterfall(blocks, trace["seconds"])


def _span_title(span: Mapping[str, Any]) -> str:
    took, moved = f"{span['seconds'] * 1e3:.1f} ms", f"{span['bytes'] / 1e6:.2f} MB"
    return f"{span['name']}, segment {span['segment'] or 1}: {took}, {moved}"


def roofline(report: Report) -> str:
    peaks, networks = report["limits"]["peaks"], report["limits"]["networks"]
    points = {name: (row["intensity"], row["achieved"]) for name, row in networks.items()}
    return svg.roofline((peaks["operations"], peaks["bytes"]), points)


def load_curve(report: Report) -> str:
    series = []
    for kind in ("closed", "open"):
        loads = sorted((load for load in report["service"]["loads"] if load["kind"] == kind and "p50" in load),
                       key=lambda load: load["offered"])  # fmt: skip
        for rank in ("p50", "p99"):
            points = tuple((load["throughput"], load[rank]["value"]) for load in loads)
            series.append(svg.Series(f"{kind} loop {rank}", points))
    return svg.lines(series, "requests answered a second", "seconds", logarithmic=False)


def _fit(curve: Mapping[str, Any]) -> str:
    fit = curve["exponent"]
    return f"(n^{fit['value']:.2f})" if fit else ""


def _colour(label: str) -> str:
    """Ours in one colour, each rival in its own."""
    kinds = ("onnxruntime", "eager", "compile", "triton", "plain gRPC", "fp16", "bf16", "int8", "fp8")
    return next((svg.COLOURS[i % 8] for i, kind in enumerate(kinds) if kind in label.split("/")), svg.COLOURS[0])
