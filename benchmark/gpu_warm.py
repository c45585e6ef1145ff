"""Compiles what the GPU check will launch, in many processes at once, into Triton's cache on the disk.

Every case runs on tensors without memory (the meta device) with a launcher that only compiles, so the specialisations
are those of the real launches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import triton

from dreamactor.benchmark import gpu_cases, gpu_plan
from dreamactor.benchmark.gpu_cases import Case
from dreamactor.kernels.tiles import Tile

PROCESSES = min(16, os.cpu_count() or 1)


def compile_share(index: int, count: int, kernels: list[str], until: float) -> int:
    """Compile the `index`-th of `count` shares of every case of `kernels`; returns how many launches were seen."""
    gpu_cases.DEVICE = "meta"
    launches = 0
    original: Callable[..., Any] = triton.runtime.JITFunction.run

    def compiled_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        nonlocal launches
        launches += 1
        return original(self, *arguments, grid=grid, warmup=True, **options)

    triton.runtime.JITFunction.run = compiled_only
    try:
        for number, run in enumerate(_runs(kernels)):
            if number % count == index and time.monotonic() < until:
                run()
    finally:
        triton.runtime.JITFunction.run = original
    return launches


def _runs(kernels: list[str]) -> list[Callable[[], None]]:
    """One for each tile of each kernel and size: that tile in every case: no two processes compile the same."""
    found: dict[tuple[Any, ...], list[tuple[Case, Tile]]] = {}
    for kernel in kernels:
        for make in gpu_plan.CHECKED[kernel] + gpu_plan.RAGGED[kernel] + gpu_plan.TIMED[kernel]:
            case = make()
            for tile in case.candidates():
                found.setdefault((kernel, case.variant, case.table_size(), tile.name), []).append((case, tile))
    return [partial(_run, pairs) for pairs in found.values()]


def _run(pairs: list[tuple[Case, Tile]]) -> None:
    for case, tile in pairs:
        try:
            case.run(tile)
        except Exception as error:  # the check itself will report it
            print(f"{case.kernel} {case.label} {tile.name} does not compile: {str(error)[:200]}", flush=True)
