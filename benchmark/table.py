"""The report in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamactor.benchmark.words import exponents, interval, loads, longest, memory_fit, peer_rows, title


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
    for what, said in exponents(report["scaling"]):
        console.print(f"{what:38s}{said}", highlight=False)
    if report["scaling"].get("memory"):
        console.print(f"{'memory of a clip':38s}{memory_fit(report['scaling']['memory'])}", highlight=False)
    if said := longest(report["scaling"]):
        console.print(f"{'longest clip that fits':38s}{said}", highlight=False)
    for what, said in loads(report["service"]):
        console.print(f"{what:38s}{said}", highlight=False)
    for line in report["service"].get("failed_requests", []):
        console.print(f"failed under load: {line}", highlight=False, style="yellow")
    for name, error in report["failed"].items():
        console.print(f"FAILED: {name}: {error}", highlight=False, style="red")
    for name, reason in report["not_run"].items():
        console.print(f"not run: {name}: {reason}", highlight=False, style="yellow")


def _ms(seconds: float | None) -> str:
    return "∞" if seconds is None else f"{seconds * 1e3:.1f}"
