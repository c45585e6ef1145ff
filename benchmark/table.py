"""The report in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def print_table(report: Mapping[str, Any]) -> None:
    """Timings with intervals, fraction of peak, summary, and what was not run."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    console.width = max(console.width, 112)  # names are not cut where there is no terminal
    table = Table(title=title(report))
    for column in ("what", "p50, ms", "95 % interval", "p90", "p99", "runs"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, timing in report["timings"].items():
        middle = timing["p50"]
        table.add_row(
            name, _ms(middle["value"]), f"{_ms(middle['low'])} to {_ms(middle['high'])}",
            _ms(timing["p90"]["value"]), _ms(timing["p99"]["value"]), str(timing["runs"]),
        )  # fmt: skip
    console.print(table)
    for name, row in report["limits"].get("networks", {}).items():
        share = f"{row['operations'] / 1e9:7.2f} Gop, {row['mfu']:.0%} of the measured peak"
        console.print(f"  {name:22s}{share}", highlight=False)
    plain = {key: found for key, found in report["service"].items() if key == "plain_grpc_overhead"}
    for key, found in {**report["summary"], **plain}.items():
        line = "not run" if found is None else f"{found['value']:.3f} {interval(found)}"
        console.print(f"{key:38s}{line}", highlight=False)
    for what, said in peer_rows(report["peers"]):
        console.print(f"{what:72s}{said}", highlight=False)
    for what, power in exponents(report["scaling"]):
        console.print(f"{what:38s}{power}", highlight=False)
    if report["scaling"].get("memory"):
        console.print(f"{'memory of a clip':38s}{memory_fit(report['scaling']['memory'])}", highlight=False)
    for line in report["service"].get("failed_requests", []):
        console.print(f"failed under load: {line}", highlight=False, style="yellow")
    for name, error in report["failed"].items():
        console.print(f"FAILED: {name}: {error}", highlight=False, style="red")
    for name, reason in report["not_run"].items():
        console.print(f"not run: {name}: {reason}", highlight=False, style="yellow")


def title(report: Mapping[str, Any]) -> str:
    """What was measured, and on what: the GPU where the main set, the first, runs there."""
    machine, settings = report["environment"], report["settings"]
    where = f"{machine.get('processor')}, {machine.get('cores')} cores"
    if next(iter(settings.get("targets", {}).values()), "cpu") != "cpu":
        where = f"{(machine.get('gpu') or {}).get('name', 'a GPU')} ({where})"
    return f"{settings.get('preset')} on {where}"


def exponents(scaling: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fitted powers in words: of time against every axis, and of memory against those beside the frames."""
    times, memory = scaling.get("curves", {}), scaling.get("memory_curves", {})
    found = [(f"time of {name.replace(' / ', ' against ')}", curve["exponent"]) for name, curve in times.items()]
    found += [(f"memory of a clip against {axis}", curve["exponent"]) for axis, curve in memory.items()]
    return [(what, f"n^{fit['value']:.2f} {interval(fit)}") for what, fit in found]


def memory_fit(fit: Mapping[str, Any]) -> str:
    """The fit of `scaling.ClipScaling.memory` in words."""
    idle, constant, each = (fit[key] / 1e6 for key in ("idle", "constant", "factor"))
    power = f"frames^{fit['exponent']['value']:.2f}"
    return f"{idle:.0f} MB idle + {constant:.0f} MB + {each:.3g} MB x {power}, from {fit['from']} frames on"


def interval(found: Mapping[str, Any], form: str = "{:.3f}") -> str:
    """Both ends between brackets; one that is not known is infinite."""
    low, high = found["low"], found["high"]
    return f"[{'−∞' if low is None else form.format(low)}, {'∞' if high is None else form.format(high)}]"


def peer_rows(peers: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The report's `peers` in words: what, and what was found; agreements are left out."""
    for name, peer in peers.items():
        if "device" in peer:
            yield f"{name}: runs on", f"{peer['device']} in {peer['dtype']}"
        if "first_run_seconds" in peer:
            yield f"{name}: first run of each network and size", f"{peer['first_run_seconds']:.1f} s"
        for key in (key for key in peer if key.startswith("networks_speedup")):
            ours = key.removeprefix("networks_speedup").strip("_") or "the main set"
            yield f"{name}: its networks' time over that of {ours}", _ratio(peer[key])
        if "theirs_over_ours" in peer:
            theirs, ours = (f"{peer['seconds'][whose]['value'] * 1e3:.1f} ms" for whose in ("theirs", "ours"))
            yield f"{name}: a call, and one of our denoiser beside it", f"{theirs} and {ours}"
            yield f"{name}: its time over our denoiser's", _ratio(peer["theirs_over_ours"])
        if "video_psnr_db" in peer:
            yield f"{name}: PSNR of its video against the main set's", f"{peer['video_psnr_db']:.1f} dB"
        if "note" in peer:
            yield f"{name}: note", peer["note"]


def _ratio(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.2f} {interval(found, '{:.2f}')}"


def _ms(seconds: float | None) -> str:
    return "∞" if seconds is None else f"{seconds * 1e3:.1f}"
