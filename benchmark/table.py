"""The report in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def print_table(report: Mapping[str, Any]) -> None:
    """Timings with intervals, fraction of peak, summary, and what was not run."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
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
    for key, found in report["summary"].items():
        line = "not run" if found is None else f"{found['value']:.3f} [{_end(found['low'])}, {_end(found['high'])}]"
        console.print(f"{key:38s}{line}", highlight=False)
    for what, power in exponents(report["scaling"]):
        console.print(f"{what:38s}{power}", highlight=False)
    if report["scaling"].get("memory"):
        console.print(f"{'memory of a clip':38s}{memory_fit(report['scaling']['memory'])}", highlight=False)
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
    return [(what, f"n^{fit['value']:.2f} [{_end(fit['low'])}, {_end(fit['high'])}]") for what, fit in found]


def memory_fit(fit: Mapping[str, Any]) -> str:
    """The fit of `scaling.ClipScaling.memory` in words."""
    idle, constant, each = (fit[key] / 1e6 for key in ("idle", "constant", "factor"))
    power = f"frames^{fit['exponent']['value']:.2f}"
    return f"{idle:.0f} MB idle + {constant:.0f} MB + {each:.3g} MB x {power}, from {fit['from']} frames on"


def _ms(seconds: float | None) -> str:
    return "unbounded" if seconds is None else f"{seconds * 1e3:.1f}"


def _end(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3f}"
