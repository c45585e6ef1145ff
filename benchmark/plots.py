"""The report's charts, each made from the report alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dreamactor.benchmark import charts
from dreamactor.benchmark.drawing import COLOURS, Drawing
from dreamactor.benchmark.profiles import PARTS
from dreamactor.benchmark.words import power

Report = Mapping[str, Any]
_BARS = (
    ("pipeline", "Whole clip, against PyTorch"),
    ("networks", "The networks of a clip, without landmarks and MP4, against PyTorch"),
    ("service", "Whole clip, in process and served"),
    ("stage", "Stages of a clip"),
    ("engine", "Engines: one segment"),
    ("device", "Engines by the GPU's own clock, without copies to it and back"),
    ("peer", "Networks, against PyTorch"),
)
_KINDS = ("onnxruntime", "eager", "compile", "triton", "plain gRPC", "fp16", "bf16", "int8", "fp8")
_SPANS = {"stage": COLOURS[0], "engine": COLOURS[1]}


@dataclass(frozen=True)
class Chart:
    """A picture, its heading, and what it shows; `name` is fit for a file."""

    name: str
    title: str
    caption: str
    drawing: Drawing


def report_charts(report: Report) -> Iterator[Chart]:
    """Every chart there is data for."""
    for group, title in _BARS:
        rows = latency_bars(report, group)
        if rows:
            caption = (
                f"Median; the dark line is its 95 % interval, the ticks are p90 and p99 of {_runs(report, group)} runs."
            )
            yield Chart(group, title, caption, charts.bars(rows))
    if report["trace"]:
        caption = "A clip of two segments: the pipeline's stages, and the engine calls within them."
        yield Chart("waterfall", "Where a clip's time goes", caption, waterfall(report))
    if report["profiles"]:
        parts = {name: profile["parts"] for name, profile in report["profiles"].items()}
        caption = "One run of each network, the runtime's own profile folded into parts."
        drawing = charts.stacked(parts, (*PARTS, "scheduling"))
        yield Chart("parts", "Where a network's time goes", caption, drawing)
    if report["limits"]:
        by = "the GPU's own time" if report["limits"]["clock"] == "device" else "the time of whole runs"
        how = report["limits"]["peaks"]["how"]
        caption = f"Share of the roof, which was measured in the same run: {how}; by {by}."
        yield Chart("roofline", "How far from the limit", caption, roofline(report))
    yield from _curves(report["scaling"].get("curves", {}))
    if report["scaling"].get("memory"):
        yield Chart("memory", "Memory against length", *memory(report["scaling"]))
    if report["service"].get("loads"):
        most = max(load["requests"] for load in report["service"]["loads"])
        caption = (
            "At the points: callers of the closed loop, requests a second offered to the open one. "
            f"Of {most} requests or fewer p99 is about the slowest."
        )
        yield Chart("load", "Under load", caption, load_curve(report))


def latency_bars(report: Report, group: str) -> list[charts.Bar]:
    """Bars of the timings called `group/...`, in milliseconds, those of one network together."""
    rows = []
    for name, timing in report["timings"].items():
        kind, _, label = name.partition("/")
        if kind != group:
            continue
        median, ranks = timing["p50"], (timing["p90"]["value"], timing["p99"]["value"])
        shown = f"{median['value'] * 1e3:.1f} ms"
        rows.append(
            charts.Bar(
                label, median["value"], median["low"], median["high"], shown, ranks, _colour(label),
                label.partition("/")[0] if "/" in label else "",
            )
        )  # fmt: skip
    order = list(dict.fromkeys(row.group for row in rows))
    return sorted(rows, key=lambda row: order.index(row.group))


def _runs(report: Report, group: str) -> str:
    counts = {timing["runs"] for name, timing in report["timings"].items() if name.startswith(f"{group}/")}
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def waterfall(report: Report) -> Drawing:
    trace = report["trace"]
    blocks = [
        charts.Block(span["name"], span["start"], span["seconds"], _SPANS[span["kind"]], _span_title(span))
        for span in sorted(trace["spans"], key=lambda span: (span["kind"] == "engine", span["start"]))
        if span["kind"] in _SPANS
    ]
    key = [("stages", _SPANS["stage"]), ("engine calls", _SPANS["engine"])]
    return charts.waterfall(blocks, trace["seconds"], key)


def _span_title(span: Mapping[str, Any]) -> str:
    segment = f", segment {span['segment']}" if span["segment"] else ""  # motion and encode are of the whole clip
    moved = f", {span['bytes'] / 1e6:.2f} MB" if span["bytes"] else ""
    return f"{span['name']}{segment}: {span['seconds'] * 1e3:.1f} ms{moved}"


def roofline(report: Report) -> Drawing:
    peaks, networks = report["limits"]["peaks"], report["limits"]["networks"]
    points = {name: (row["intensity"], row["achieved"]) for name, row in networks.items()}
    return charts.roofline((peaks["operations"], peaks["bytes"]), points)


def load_curve(report: Report) -> Drawing:
    series = []
    for kind, colours in (("closed", COLOURS[:2]), ("open", COLOURS[2:4])):
        loads = sorted((load for load in report["service"]["loads"] if load["kind"] == kind and "p50" in load),
                       key=lambda load: load["offered"])  # fmt: skip
        for rank, colour in zip(("p50", "p99"), colours, strict=True):
            points = tuple((load["throughput"], load[rank]["value"]) for load in loads)
            labels = tuple(f"{load['offered']:.2g}" for load in loads) if rank == "p99" else ()
            series.append(charts.Series(f"{kind} loop, {rank}", points, labels=labels, colour=colour))
    return charts.lines(series, "requests answered a second", "seconds to the answer", logarithmic=False)


def memory(scaling: Mapping[str, Any]) -> tuple[str, Drawing]:
    """Caption and chart of the peak memory with its fit."""
    fit, peaks = scaling["memory"], scaling["peaks"]
    points = tuple((float(peak["frames"]), peak["peak"] / 1e6) for peak in peaks)
    last = max(x for x, _ in points)
    curve = tuple(
        (x, (fit["idle"] + fit["constant"] + fit["factor"] * x ** fit["exponent"]["value"]) / 1e6)
        for x in (fit["from"] + (last - fit["from"]) * i / 40 for i in range(41))
    )
    series = [
        charts.Series("fit", curve, _fit(fit), dots=False, colour=COLOURS[1]),
        charts.Series("peak of a clip", points, joined=False, colour=COLOURS[0]),
        charts.Series("engines open, idle", tuple((float(p["frames"]), p["idle"] / 1e6) for p in peaks),
                      colour=COLOURS[7]),
    ]  # fmt: skip
    for key, name, colour in (
        ("device_peak", "whole GPU, most", COLOURS[2]), ("device_grown", "GPU, most less idle", COLOURS[3])
    ):  # fmt: skip
        device = tuple((float(peak["frames"]), peak[key] / 1e6) for peak in peaks if peak[key] is not None)
        if device:
            series.append(charts.Series(name, device, colour=colour))
    caption = (
        f"Each length in a process of its own; fitted from {fit['from']:g} frames on, "
        "where the clip and not the engines' working memory sets the peak."
    )
    return caption, charts.lines(series, "frames", "MB", logarithmic=False)


def _curves(curves: Mapping[str, Mapping[str, Any]]) -> Iterator[Chart]:
    for axis in dict.fromkeys(curve["axis"] for curve in curves.values()):
        chosen = [
            charts.Series(name.split(" / ")[0], tuple(zip(curve["sizes"], curve["values"], strict=True)), _fit(curve))
            for name, curve in curves.items() if curve["axis"] == axis
        ]  # fmt: skip
        wide = max(max(curve["sizes"]) / min(curve["sizes"]) for curve in curves.values() if curve["axis"] == axis) > 4
        axes = "Both axes logarithmic" if wide else "Both axes from zero"
        caption = f"{axes}; beside the name the fitted exponent and its 95 % interval."
        yield Chart(f"time_{axis}", f"Time against {axis}", caption, charts.lines(chosen, axis, "seconds", wide))


def _fit(curve: Mapping[str, Any]) -> str:
    return power(curve["exponent"], "{:.2f}") if curve["exponent"] else ""


def _colour(label: str) -> str:
    """Ours in one colour, each peer in its own."""
    words = re.split("[/-]", label)
    return next((COLOURS[i % 8] for i, kind in enumerate(_KINDS) if kind in words), COLOURS[0])
