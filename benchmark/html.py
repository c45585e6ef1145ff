"""The benchmark's report as one HTML page that needs no other file."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dreamactor.benchmark import words
from dreamactor.benchmark.plots import report_charts
from dreamactor.benchmark.words import exponents, interval, peer_rows
from dreamactor.page import page, table

Report = Mapping[str, Any]
Table = tuple[str, Sequence[str], list[Sequence[object]]]  # heading, columns, rows
_STYLE = """
p{margin:.3rem 0 .8rem;color:#555}table{font-size:13px}.cards{display:flex;flex-wrap:wrap;gap:.8rem}
.card{border:1px solid #d8dce1;border-radius:6px;padding:.6rem .9rem;min-width:190px}
.card b{font-size:1.35rem;display:block}
"""
_CARDS = {
    "pipeline_speedup_over_eager": ("as fast as PyTorch eager", "{:.2f}×"),
    "pipeline_speedup_over_compile": ("as fast as torch.compile", "{:.2f}×"),
    "served_overhead": ("served, over in process", "{:+.1%}"),
    "plain_grpc_overhead": ("by a plain gRPC server, over in process", "{:+.1%}"),
    "memory_exponent": ("power of the frames that memory grows with", "{:.2f}"),
}


def write_html(report: Report) -> str:
    """The page; every figure in it is in the JSON too."""
    title = f"dreamactor bench: {words.title(report)}"
    plain = {key: found for key, found in report["service"].items() if key == "plain_grpc_overhead"}
    body = [f"<h1>{html.escape(title)}</h1>", f"<p>{_subtitle(report)}</p>", _cards({**report["summary"], **plain})]
    for chart in report_charts(report):
        body.append(f"<h2>{html.escape(chart.title)}</h2><p>{html.escape(chart.caption)}</p>{chart.drawing.svg()}")
    for heading, head, rows in _tables(report):
        body.append(f"<h2>{html.escape(heading)}</h2>{table(head, rows, range(1, len(head)))}")
    return page(title, body, _STYLE)


def _subtitle(report: Report) -> str:
    machine = report["environment"]
    gpu = machine["gpu"]["name"] if machine.get("gpu") else "no GPU"
    parts = [machine.get("date"), machine.get("system"), gpu, f"commit {machine.get('commit')}"]
    for key, before in (("packages", ""), ("server_packages", "server: "), ("threads", "threads: ")):
        found = ", ".join(f"{name} {value}" for name, value in machine.get(key, {}).items())
        parts.append(found and before + found)
    return html.escape(" · ".join(str(part) for part in parts if part))


def _cards(summary: Mapping[str, Any]) -> str:
    cards = []
    for key, found in summary.items():
        base = next((known for known in _CARDS if key.startswith(known)), None)
        if base is None:
            continue
        label, form = _CARDS[base]
        precision = key.removeprefix(base).strip("_")
        label = f"{label}, in {precision}" if precision else label
        if found is None:
            cards.append(f'<div class="card"><b>not run</b>{label}</div>')
            continue
        cards.append(f'<div class="card"><b>{form.format(found["value"])}</b>{label}<br>{interval(found, form)}</div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _tables(report: Report) -> Iterator[Table]:
    if report["limits"]:
        head = ("network", "Gop", "MB moved", "ms", "floor, ms", "Gop/s", "of peak")
        yield "Operations and limits", head, [
            (name, f"{row['operations'] / 1e9:.2f}", f"{row['moved'] / 1e6:.1f}", f"{row['seconds'] * 1e3:.1f}",
             f"{row['floor_seconds'] * 1e3:.1f}", f"{row['achieved'] / 1e9:.0f}", f"{row['mfu']:.0%}")
            for name, row in report["limits"]["networks"].items()
        ]  # fmt: skip
    if report["trace"]:
        rows = [(name, f"{size / 1e6:.3f}") for name, size in report["trace"]["handed_on_bytes"].items()]
        yield "Bytes handed on by a stage", ("stage", "MB"), [*rows]
    yield from _of_service(report["service"])
    yield from _of_peers(report["peers"])
    step = _twice(report)
    if step:
        yield "A step of the denoiser, measured twice", ("where", "p50, ms"), step
    yield from _of_scaling(report["scaling"])
    if report["conditions"]:
        moments = ("before", "load", "processor, MHz", "processor, °C", "GPU clock", "GPU, °C")
        yield "The machine while it ran", moments, [*map(_moment, report["conditions"])]
    if report["failed"]:
        yield "FAILED", ("what", "error"), list(report["failed"].items())
    if report["not_run"]:
        yield "Not run", ("what", "why"), list(report["not_run"].items())


def _of_service(service: Mapping[str, Any]) -> Iterator[Table]:
    shares, loads = service.get("statistics", []), service.get("loads", [])
    if shares:
        phases = ("queue", "compute_input", "compute_infer", "compute_output", "overhead", "success")
        yield "Triton's own statistics of whole clips, mean ms of a request", ("model", "requests", *phases), [
            (share["model"], share["executions"],
             *(f"{share['seconds'][phase] * 1e3:.2f}" if phase in share["seconds"] else "-" for phase in phases))
            for share in shares
        ]  # fmt: skip
    if loads:
        ranks = ("p50", "p90", "p99")
        head = ("loop", "callers, or requests/s", "requests", "answered/s", *map("{}, s".format, ranks), "failed", "MB")
        yield "Loads", head, [
            (load["kind"], f"{load['offered']:.2g}", load["requests"], f"{load['throughput']:.2f}",
             *(f"{load[rank]['value']:.2f}" if rank in load else "-" for rank in ranks), load["failed"],
             _megabytes(load["memory"]))
            for load in loads
        ]  # fmt: skip
    if service.get("failed_requests"):
        yield "Failed under load", ("load",), [(line,) for line in service["failed_requests"]]


def _of_peers(peers: Mapping[str, Any]) -> Iterator[Table]:
    rows = [*peer_rows(peers)]
    if rows:
        yield "Peers and other precisions", ("what", "found"), [*rows]
    agreed = {name: peer["agreement"] for name, peer in peers.items() if "agreement" in peer}
    if agreed:
        heading = "How far PyTorch's outputs are from the engines', relatively, a video in levels of 255"
        networks = zip(*agreed.values(), strict=True)
        yield heading, ("network", *agreed), [(row[0]["network"], *map(_difference, row)) for row in networks]


def _of_scaling(scaling: Mapping[str, Any]) -> Iterator[Table]:
    powers, peaks = exponents(scaling), scaling.get("peaks", [])
    if powers:
        yield "Fitted exponents", ("what", "found; power with its 95 % interval"), [*powers]
    if peaks:
        sizes = {
            "idle": "engines open, idle", "peak": "most", "device_idle": "whole GPU, idle",
            "device_peak": "whole GPU, most", "device_grown": "GPU, most less idle",
        }  # fmt: skip
        yield "Peak memory of a clip, MB", ("frames", *sizes.values()), [
            (peak["frames"], *(_megabytes(peak[key]) for key in sizes)) for peak in peaks
        ]  # fmt: skip
    if scaling.get("longest_clip"):
        longest = scaling["longest_clip"]
        yield "The longest clip that fits", ("bound", "frames"), [
            ("memory of this machine", longest["frames_by_memory"]), ("cap on input", longest["frames_by_cap"]),
        ]  # fmt: skip


def _moment(conditions: Mapping[str, Any]) -> Sequence[object]:
    """A row of what the system said between two sections; "-" for what it did not."""
    load, gpu = conditions["load"] or [None], conditions["gpu"] or {}
    processor = (load[0], conditions["clock_mhz"], conditions["temperature_c"])
    told = ["-" if value is None else f"{value:.{digits}f}" for value, digits in zip(processor, (1, 0, 0), strict=True)]
    return (conditions["before"], *told, *(gpu.get(key, "-") for key in ("clocks.sm", "temperature.gpu")))


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


def _difference(row: Mapping[str, Any]) -> str:
    size = "∞" if row["difference"] is None else f"{row['difference']:.1e}"
    return size if row["passed"] else f"{size}: too far"


def _twice(report: Report) -> list[Sequence[object]]:
    """The same network by itself on fresh inputs, and within whole clips: the two should agree."""
    engine = f"engine/denoiser/{report['settings'].get('precisions', ['fp32'])[0]}"
    names = {"by itself, other networks in between": engine, "within a clip, step after step": "step/denoiser"}
    timings = report["timings"]
    if not set(names.values()) <= set(timings):
        return []
    return [(where, f"{timings[name]['p50']['value'] * 1e3:.1f}") for where, name in names.items()]
