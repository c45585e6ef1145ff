"""The GPU check's report: a file that grows case by case, continues an earlier run of the same day, and is judged.

A figure stands only if nothing contradicts it: a tile that failed a check anywhere gives none for its kernel and size,
and a kernel that failed compiled, captured or under the sanitizer gives none at all. What is not trusted stays in the
file under `withheld`, with the reason. A row that a later run did not finish is put back as it was.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dreamactor.benchmark.gpu_tiles import failed_kernels, wrong_tiles
from dreamactor.benchmark.schema import finite
from dreamactor.files import write_whole

Row = dict[str, Any]
FIGURES = ("ms", "tflops", "gbps", "of_peak")
BEGUN, DIED = "begun and not finished", "the process ended here, or this took too long"
LISTS = ("kernels", "compiled_and_graphs", "sanitizer")


class Report:
    """The report at `path`: `data` is what the file holds; `save` after every change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: Row = json.loads(path.read_text()) if path.exists() else {}
        for name in LISTS:
            self.data.setdefault(name, [])

    def row(self, part: str, run: str, **identity: Any) -> Row:
        """The row of list `part` with this identity, begun again unless it is of this `run`; what an earlier run had is
        kept until `judge`."""
        rows: list[Row] = self.data[part]
        at = next((i for i, row in enumerate(rows) if identity.items() <= row.items()), None)
        if at is not None and rows[at]["run"] == run:
            return rows[at]
        fresh = {**identity, "run": run}
        if at is None:
            rows.append(fresh)
        else:
            self.data.setdefault("earlier", []).append({"part": part, "identity": identity, "row": rows[at]})
            rows[at] = fresh
        return fresh

    def of(self, run: str) -> list[Row]:
        """Every row that `run` wrote."""
        return [row for name in LISTS for row in self.data[name] if row["run"] == run]

    def save(self) -> None:
        """Write the file whole or not at all."""
        write_whole(self.path, (json.dumps(finite(self.data), indent=1, allow_nan=False) + "\n").encode())


def passed(row: Row) -> bool | None:
    """False if anything of a row failed, True if something passed, None where nothing was run."""
    found = [row.get("passed"), *(tile["passed"] for tile in row.get("tiles", {}).values())]
    return False if False in found else True if True in found else None


def settled(row: Row) -> bool:
    """Whether a row is complete: something in it failed, or all of it was done."""
    if "tiles" in row:
        return passed(row) is False or "done" in row
    return row.get("passed") is not None


def ended(report: Report, run: str, passed: bool | None, why: str) -> None:
    """After a worker of `run` has ended: the verdict on what it was doing."""
    for row in report.of(run):
        for part in (row, *row.get("tiles", {}).values(), *row.get("peers", {}).values()):
            if part.get("failure") == BEGUN:
                part |= {"passed": passed, "failure": why}
    report.save()


def judge(data: Row) -> None:
    """Withhold or restore every figure by all that is known now, and name the fastest tile of each timed case.

    May be called between any two parts of a run, and on the file of a run that was cut off.
    """
    for kept in data.pop("earlier", []):
        rows: list[Row] = data[kept["part"]]
        at = next(i for i, row in enumerate(rows) if kept["identity"].items() <= row.items())
        if settled(kept["row"]) and not settled(rows[at]):
            rows[at] = kept["row"]
    failed = failed_kernels(data)
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
