"""The GPU check's report: a file that grows case by case, goes on where an earlier run of the day ended, and is judged.

A figure stands only if nothing contradicts it: a tile that failed a check anywhere gives none for its kernel and size,
and a kernel that failed compiled, captured or under the sanitizer gives none at all. What is not believed stays in the
file under `withheld`, with the reason.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from dreamactor.benchmark.schema import finite
from dreamactor.kernels.tiles import wrong_tiles

Row = dict[str, Any]
FIGURES = ("ms", "tflops", "gbps", "of_peak")
DIED = "the process ended here, or this took too long"
LISTS = ("kernels", "compiled_and_graphs", "sanitizer")


class Report:
    """The report at `path`: `data` is what the file holds, and every change is on the disk before the next begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: Row = json.loads(path.read_text()) if path.exists() else {}
        for name in LISTS:
            self.data.setdefault(name, [])

    def row(self, part: str, run: str, **identity: Any) -> Row:
        """The row of list `part` with this identity, begun anew unless it is already of this `run`."""
        rows: list[Row] = self.data[part]
        at = next((i for i, row in enumerate(rows) if identity.items() <= row.items()), None)
        if at is not None and rows[at]["run"] == run:
            return rows[at]
        fresh = {**identity, "run": run}
        if at is None:
            rows.append(fresh)
        else:
            rows[at] = fresh
        return fresh

    def of(self, run: str) -> list[Row]:
        """Every row that `run` wrote."""
        return [row for name in LISTS for row in self.data[name] if row["run"] == run]

    def save(self) -> None:
        """Write the file whole or not at all."""
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(finite(self.data), indent=1, allow_nan=False) + "\n")
        os.replace(beside, self.path)


def passed(row: Row) -> bool | None:
    """False if anything of a row failed, True if something passed, None where nothing was run."""
    found = [row.get("passed"), *(tile["passed"] for tile in row.get("tiles", {}).values())]
    return False if False in found else True if True in found else None


def interrupted(report: Report, run: str) -> None:
    """After a worker was ended for its time: what it was at is not to be called a failure."""
    for row in report.of(run):
        for part in (row, *row.get("tiles", {}).values()):
            if part.get("failure") == DIED:
                part |= {"passed": None, "failure": "time was up"}
    report.save()


def judge(data: Row) -> None:
    """Put every figure where it belongs by all that is known now, and name the fastest tile of each timed case."""
    failed = _failed_kernels(data)
    for entry in data["kernels"]:
        wrong = wrong_tiles(data, entry["kernel"], entry.get("size"))
        broken = failed.get((entry["kernel"], entry.get("variant", ""))) or failed.get((entry["kernel"], None))
        for name, row in entry["tiles"].items():
            row |= row.pop("withheld", {})
            row.pop("why", None)
            why = broken or (f"failed at {wrong[name]}" if name in wrong else None)
            if why and "ms" in row:
                row |= {"withheld": {figure: row.pop(figure) for figure in FIGURES if figure in row}, "why": why}
        entry.pop("fastest", None)
        known = {name: row["ms"] for name, row in entry["tiles"].items() if "ms" in row}
        if known:
            entry["fastest"] = min(known, key=known.__getitem__)


def _failed_kernels(data: Row) -> dict[tuple[str, str | None], str]:
    """(kernel, variant or None for all) -> which check of the whole kernel failed."""
    failed: dict[tuple[str, str | None], str] = {}
    for name, what in (("compiled_and_graphs", "its operator failed"), ("sanitizer", "the sanitizer found errors")):
        for row in data[name]:
            if row["passed"] is False:
                failed[row["kernel"], row.get("variant")] = what
    for entry in data["kernels"]:
        if entry.get("size") is None and passed(entry) is False:  # one tile for all, or never set up
            failed[entry["kernel"], entry.get("variant", "")] = f"failed at {entry.get('label', entry['case'])}"
    return failed


def line(entry: Row) -> str:
    """One case in a line."""
    state = {True: "ok", False: "FAILED", None: "skipped"}[passed(entry)]
    text = f"{entry['kernel']:17} {entry.get('label') or entry.get('case') or entry.get('variant', ''):42} {state:7}"
    known = {name: row for name, row in entry.get("tiles", {}).items() if "ms" in row}
    if known:
        name, best = min(known.items(), key=lambda item: item[1]["ms"])
        rate = f"{best['tflops']:.0f} TFLOP/s" if "tflops" in best else f"{best['gbps']:.0f} GB/s"
        share = f" ({best['of_peak']:.0%} of this run's peak)" if best["of_peak"] else ""
        peers = ", ".join(f"{peer} {row['ms']:.3f}" for peer, row in entry.get("peers", {}).items() if "ms" in row)
        text += f" {name:26} {best['ms']:.3f} ms {rate}{share}; peers (ms): {peers or 'none'}"
    bad = {name: row for name, row in entry.get("tiles", {}).items() if row["passed"] is False}
    for name, row in {**bad, **({"": entry} if entry.get("failure") else {})}.items():
        text += f"\n    {name} {row.get('failure') or 'error {:.3g}'.format(row.get('error') or math.nan)}"
    return text
