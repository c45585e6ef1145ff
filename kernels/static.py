"""What a kernel's machine code allows at best: its inner loop's instructions against the chip's rates.

`python -m dreamactor.kernels.static --write` compiles every entry of the tile table and writes the figures to
`static.json`, with the hash of what was compiled; the quick tests recompile what runs first, fail where a figure got
worse, and where the sources are others than those of the figures: whoever changes a kernel compiles every entry. A
bound is not a measurement: it ignores latency, and real kernels overlap matrix products and softmax only in part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton

from dreamactor.kernels import sources, tiles
from dreamactor.kernels.aot import MMA, Compiled, compile_kernel
from dreamactor.kernels.tiles import Tile

TABLE = Path(__file__).with_name("static.json")
# Dense FLOP a clock and SM with float32 accumulation, (16-bit, 8-bit): the vendor's peaks over SMs and boost clock.
MMA_RATE = {80: (2048, 0), 89: (1024, 2048), 90: (4096, 8192), 120: (1024, 2048)}
EXP2_RATE = 16  # MUFU results a clock and SM
ISSUE_RATE = 4  # warp instructions a clock and SM
_REGISTERS = 8  # a thread's are given out in such steps


@dataclass(frozen=True)
class Figures:
    """`mma`, `exp2` and `issue` are the clocks that one step of the inner loop keeps each unit busy (whole block).

    `bound` is the share of the matrix unit's peak that is left if all three overlap perfectly; `serial` if none does.
    None for kernels without a loop of matrix products, which have the `instructions` of the whole instead.
    """

    registers: int
    stack: int
    shared: int
    matrix_instructions: tuple[str, ...]
    loop_instructions: int | None = None
    mma: float | None = None
    exp2: float | None = None
    issue: float | None = None
    bound: float | None = None
    serial: float | None = None
    instructions: int | None = None

    def worse_than(self, other: Figures, slack: float = 0.03) -> str | None:
        """What got worse than `other` beyond `slack`, in words; None if nothing did."""
        if self.stack > other.stack:
            return f"stack {other.stack} -> {self.stack} bytes (spills)"
        if self.shared > other.shared:
            return f"shared memory {other.shared} -> {self.shared} bytes"
        if self.matrix_instructions != other.matrix_instructions:
            return f"matrix instructions {other.matrix_instructions} -> {self.matrix_instructions}"
        if self.registers > other.registers + _REGISTERS:
            return f"registers {other.registers} -> {self.registers}"
        pairs = (
            ("issue slots a step", self.issue, other.issue),
            ("exponentials' clocks a step", self.exp2, other.exp2),
            ("instructions", self.instructions, other.instructions),
        )
        for what, now, before in pairs:
            if now is None or before is None:
                if now != before:
                    return f"{what} {before} -> {now} (a loop of matrix products came or went)"
            elif now > before * (1 + slack):
                return f"{what} {before:.0f} -> {now:.0f}"
        return None


def figures(kernel: str, arch: int, size: int, tile: Tile, compiled: Compiled | None = None) -> Figures:
    """Compile one table entry (seconds) and read its figures."""
    compiled = compiled or compile_kernel(sources.source(kernel, tile, size, arch), arch)
    registers, stack = compiled.resources
    found = tuple(sorted(MMA & set(compiled.mix)))
    if not compiled.loops:
        return Figures(registers, stack, compiled.shared, found, instructions=compiled.mix.total())
    loop = compiled.main_loop
    warps = tile.num_warps if tile.specialized else compiled.num_warps  # each runs this loop; one that loads does not
    flop = 4 * tile.block_m * tile.block_n * size
    mma = flop / MMA_RATE[arch][kernel == "fp8_attention"]
    exp2 = loop["MUFU"] * warps * 32 / EXP2_RATE
    issue = loop.total() * warps / ISSUE_RATE
    bound, serial = mma / max(mma, exp2, issue), mma / (mma + max(exp2, issue))
    return Figures(
        registers, stack, compiled.shared, found, loop.total(), mma, exp2, issue, round(bound, 3), round(serial, 3)
    )


def entries() -> list[tuple[str, int, int, Tile]]:
    """Every (kernel, architecture, size, tile) of the tile table."""
    return [
        (kernel, arch, size, tile)
        for kernel in tiles.kernels()
        for arch in tiles.ARCHITECTURES
        for size in tiles.sizes(kernel, arch)
        for tile in tiles.tiles(kernel, arch, size)
    ]


def key(kernel: str, arch: int, size: int, tile: Tile) -> str:
    """An entry's name in `static.json`."""
    return f"{kernel}/sm_{arch}/{size}/{tile.name}"


def load() -> dict[str, Figures]:
    """The figures in `static.json`."""
    table: dict[str, dict[str, Any]] = json.loads(TABLE.read_text())["figures"]
    return {
        name: Figures(**{**row, "matrix_instructions": tuple(row["matrix_instructions"])})
        for name, row in table.items()
    }


def compiled_sources() -> str:
    """SHA-256 of the code that decides what is compiled: every file with kernels in it, and how they are compiled."""
    total = hashlib.sha256()
    for path in sorted(TABLE.parent.glob("*.py")):
        content = path.read_bytes()
        if path.name in ("sources.py", "aot.py") or re.search(rb"^@\S*jit\b", content, re.M):
            total.update(path.name.encode() + b"\0" + content)
    return total.hexdigest()


def prune() -> None:
    """Drop the figures of tiles that the table no longer has."""
    known = {key(*entry) for entry in entries()}
    table = json.loads(TABLE.read_text())
    table["figures"] = {name: row for name, row in table["figures"].items() if name in known}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


def main() -> None:
    """Print every entry's figures, and with --write keep them in `static.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write static.json")
    parser.add_argument("--only", default="", help="entries whose name contains this")
    arguments = parser.parse_args()
    if arguments.write and arguments.only:
        parser.error("figures are written of every entry: leave --only out")
    rows, chosen = {}, [entry for entry in entries() if arguments.only in key(*entry)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for entry, found in zip(chosen, pool.map(figures, *zip(*chosen, strict=True)), strict=True):
            rows[key(*entry)] = found
            print(f"{key(*entry):55} {found}", flush=True)
    if arguments.write:
        table = {name: asdict(row) for name, row in rows.items()}
        made = {"triton": triton.__version__, "sources": compiled_sources(), "figures": table}
        TABLE.write_text(json.dumps(made, indent=1) + "\n")
        prune()


if __name__ == "__main__":
    main()
