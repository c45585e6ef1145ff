"""The tile table: which block sizes each kernel runs with, by GPU architecture and head size.

Nothing is tuned at run time. `tiles.json` lists the candidates that keep within the static budget (no spill, registers,
shared memory; `aot.py` measures them and the tests hold every entry to it); the first of a list is what runs. Until a
candidate has a `rate` (TFLOP/s, or GB/s for the row kernels) with the device and versions beside it, its place is a
choice by static figures: `python -m dreamactor.kernels.tiles REPORT.json` takes over what the GPU check measured.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("tiles.json")
ARCHITECTURES = (80, 89, 90, 120)  # those with an entry of their own
_SAME_AS = {80: 80, 86: 89, 87: 80, 89: 89, 90: 90, 120: 120, 121: 120}
SHARED_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}  # bytes a block may ask for


@dataclass(frozen=True)
class Tile:
    """One configuration: `block_m` queries (or rows) by `block_n` keys (or columns) a step.

    `specialized` is the kernel in Gluon, whose `num_warps` are those that compute; it takes tensor descriptors (sm_90
    in PyTorch only; TensorRT's plugins cannot pass them).
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    specialized: bool = False
    rate: float | None = None
    measured_on: str | None = None

    @property
    def name(self) -> str:
        return f"{self.block_m}x{self.block_n}_w{self.num_warps}_s{self.num_stages}{'_specialized' * self.specialized}"


@functools.cache
def _table() -> dict[str, dict[str, dict[str, list[dict[str, Any]]]]]:
    table: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = json.loads(TABLE.read_text())["tiles"]
    return table


@functools.cache
def table_key(capability: int) -> int | None:
    """The table's architecture for a compute capability (90 for 9.0), or None where no kernel runs.

    sm_100 and sm_103 have none: Triton's dot kernels there use tensor memory and native attention is faster.
    """
    return _SAME_AS.get(capability)


@functools.cache
def tiles(kernel: str, arch: int, size: int) -> tuple[Tile, ...]:
    """Candidates of `kernel` on table architecture `arch` for head size (or channel class) `size`; may be empty."""
    entries = _table().get(kernel, {}).get(str(arch), {}).get(str(size), [])
    return tuple(Tile(**entry) for entry in entries)


def choose(kernel: str, arch: int, size: int) -> Tile:
    """The candidate that runs; KeyError with the choices where there is none."""
    candidates = tiles(kernel, arch, size)
    if not candidates:
        raise KeyError(f"No tile for kernel '{kernel}', sm_{arch}, size {size}; the table has {sorted(_table())}.")
    return candidates[0]


def wrong_tiles(report: dict[str, Any], kernel: str, size: int | None) -> dict[str, str]:
    """Tiles of `kernel` and `size` that failed a check anywhere in a report of the GPU check -> at which case."""
    return {
        name: str(entry.get("label", entry.get("case")))
        for entry in report["kernels"]
        if entry["kernel"] == kernel and size is not None and entry.get("size") == size
        for name, row in entry["tiles"].items()
        if row.get("passed") is False
    }


def failed_kernels(report: dict[str, Any]) -> dict[tuple[str, str | None], str]:
    """(kernel, variant or None for all) of which a whole check failed in a report of the GPU check -> which one."""
    failed: dict[tuple[str, str | None], str] = {}
    for name, what in (("compiled_and_graphs", "its operator failed"), ("sanitizer", "it failed under the sanitizer")):
        for row in report.get(name, []):
            if row.get("passed") is False:
                failed[row["kernel"], row.get("variant")] = what
    for entry in report["kernels"]:
        wrong = any(row.get("passed") is False for row in (entry, *entry["tiles"].values()))
        if entry.get("size") is None and wrong:  # one tile for all, or never set up
            failed[entry["kernel"], entry.get("variant", "")] = f"failed at {entry.get('label', entry.get('case'))}"
    return failed


def with_measurements(table: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """A copy of the table, each list that `report` (of the GPU check) timed ordered by speed and marked with it.

    The largest timed case of a kernel and size decides. A tile that failed a check anywhere is taken out, and so is a
    size with none left. Of a kernel that failed as a whole no figure is taken, whether or not the report was judged.
    Only lists of the report's own architecture change.
    """
    table = json.loads(json.dumps(table))
    arch = table_key(int(report["capability"].replace(".", "")))
    where = f"{report['device']}, triton {report['triton']}, {report['date'][:10]}"
    failed = failed_kernels(report)
    for entry in report["kernels"]:
        broken = {(entry["kernel"], entry.get("variant", "")), (entry["kernel"], None)} & set(failed)
        rows = {name: row for name, row in entry["tiles"].items() if "ms" in row and not broken}
        lists = table["tiles"].get(entry["kernel"], {}).get(str(arch), {})
        size = entry.get("size")
        wrong = wrong_tiles(report, entry["kernel"], size)
        candidates = [found for found in lists.get(str(size), []) if Tile(**found).name not in wrong]
        for candidate in candidates:
            row = rows.get(Tile(**candidate).name)
            if row:
                candidate |= {"rate": round(row.get("tflops") or row["gbps"], 1), "measured_on": where}
        if candidates:
            lists[str(size)] = sorted(candidates, key=lambda candidate: -(candidate.get("rate") or 0))
        else:
            lists.pop(str(size), None)
    return dict(table)


def kernels() -> tuple[str, ...]:
    """The kernels that have a table."""
    return tuple(_table())


def sizes(kernel: str, arch: int) -> tuple[int, ...]:
    """The head sizes of one kernel's table for one architecture."""
    return tuple(int(size) for size in _table().get(kernel, {}).get(str(arch), {}))


def written(table: dict[str, Any]) -> str:
    """The table as JSON with a tile a line."""
    tile = re.compile(r"\{[^{}]*\}")  # an innermost object
    return tile.sub(lambda found: json.dumps(json.loads(found[0])), json.dumps(table, indent=1)) + "\n"


def main(path: Path) -> None:
    """Takes over what the report at `path` measured; the figures of tiles taken out go with them."""
    table = with_measurements(json.loads(TABLE.read_text()), json.loads(path.read_text()))
    TABLE.write_text(written(table))
    from dreamactor.kernels import static  # reads the table as it is now

    static.prune()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
