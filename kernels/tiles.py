"""The tile table: which block sizes each kernel runs with, by GPU architecture and head size.

Nothing is tuned at run time. `tiles.json` lists the candidates that keep within the static budget (no spill, registers,
shared memory; `aot.py` measures them and the tests hold every entry to it); the first of a list is what runs. Until a
candidate has a `rate` (TFLOP/s, or GB/s for the row kernels) with the device and versions beside it, its place is a
choice by static figures: `python -m dreamactor.benchmark.gpu_tiles REPORT.json` takes over what the GPU check measured.
"""

from __future__ import annotations

import functools
import json
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


def kernels() -> tuple[str, ...]:
    """The kernels that have a table."""
    return tuple(_table())


def sizes(kernel: str, arch: int) -> tuple[int, ...]:
    """The head sizes of one kernel's table for one architecture."""
    return tuple(int(size) for size in _table().get(kernel, {}).get(str(arch), {}))
