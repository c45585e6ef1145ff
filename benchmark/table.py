"""The report in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def print_table(report: Mapping[str, Any]) -> None:
    """Timings with intervals, fraction of peak, summary, and what was not run."""
    from rich.console import Console
    from rich.table import Table

    console, machine = Console(), report["environment"]
    console.width = max(console.width, 112)  # names are not cut where there is no terminal
    table = Table(title=f"{report['settings']['preset']} on {machine['processor']}, {machine['cores']} cores")
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
    if report["scaling"].get("memory"):
        console.print(f"{'memory of a clip':38s}{memory_fit(report['scaling']['memory'])}", highlight=False)
    for name, error in report["failed"].items():
        console.print(f"FAILED: {name}: {error}", highlight=False, style="red")
    for name, reason in report["not_run"].items():
        console.print(f"not run: {name}: {reason}", highlight=False, style="yellow")


def memory_fit(fit: Mapping[str, Any]) -> str:
    """The fit of `scaling.ClipScaling.memory` in words."""
    idle, constant, each = (fit[key] / 1e6 for key in ("idle", "constant", "factor"))
    power = f"frames^{fit['exponent']['value']:.2f}"
    return f"{idle:.0f} MB idle + {constant:.0f} MB + {each:.3g} MB x {power}, from {fit['from']} frames on"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _end(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3f}"
