"""One case of one kernel on the device: every tile checked against float64, those that pass timed, then the peers."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from dreamactor.benchmark import gpu_plan, gpu_timing
from dreamactor.benchmark.gpu_cases import Case
from dreamactor.benchmark.gpu_report import BEGUN, Report, Row, line
from dreamactor.kernels.tiles import Tile

FP8_ERROR, FP8_COSINE = 3e-2, 0.9995
LOST = 3  # exit status of a process whose device context is gone: another does the rest
SECONDS_A_STEP = 45  # a tile or a peer, its compilation with it
Peaks = dict[str, float | None]
Save = Callable[[], None]


def measure_kernel(kernel: str, report: Report, run: str, until: float, timed: bool) -> None:
    """Every case of `kernel`, those only checked first; begins nothing after `until` (time.monotonic).

    What this `run` already has in the report is not done again, so that a new process goes on where one ended.
    """
    for make in [*gpu_plan.CHECKED[kernel], *(gpu_plan.TIMED[kernel] if timed else [])]:
        if time.monotonic() > until:
            return
        entry = report.row("kernels", run, kernel=kernel, case=gpu_plan.name_of(make))
        entry.setdefault("tiles", {})
        if entry.get("done") or entry.get("failure"):
            continue
        case_of(make, entry, report.data.get("peaks", {}), report.save, until)
        print(line(entry), flush=True)
        report.save()


def case_of(make: gpu_plan.Make, entry: Row, peaks: Peaks, save: Save, until: float) -> None:
    """One case with fresh random inputs."""
    torch.manual_seed(time.time_ns() % 2**31)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the previous case held
    made = []
    with step(entry, save):
        made.append(make())
    for case in made:
        # the times of an untuned case say nothing of the table's tiles
        entry |= {"label": case.label, "variant": case.variant, "size": case.table_size() if case.tuned else None}
        measure(case, entry, peaks, save, until)


def measure(case: Case, entry: Row, peaks: Peaks, save: Save, until: float) -> None:
    """Check every tile of the table into `entry`, and time those that pass; the peers too if the case is timed."""
    for tile in case.candidates():
        if tile.name in entry["tiles"]:
            continue
        if time.monotonic() > until:
            return
        row: Row = entry["tiles"].setdefault(tile.name, {})
        with step(row, save):
            row |= check(case, tile)
            if row["passed"] and case.timed:
                row |= _rate(case, gpu_timing.median_ms(partial(case.run, tile)), peaks)
    known = entry.setdefault("peers", {})
    for name, peer in case.peers.items() if any("ms" in row for row in entry["tiles"].values()) else ():
        if name in known:
            continue
        if time.monotonic() > until:
            return
        row = known.setdefault(name, {})
        with step(row, save):
            peer()
            row |= _rate(case, gpu_timing.median_ms(peer), peaks)
    entry["done"] = True


@contextmanager
def step(row: Row, save: Save) -> Iterator[None]:
    """Fill `row`, which says on the disk that it was begun before the device is used, in case this process ends."""
    row |= {"passed": None, "failure": BEGUN}
    save()
    watchdog = threading.Timer(SECONDS_A_STEP, os._exit, (LOST,))
    watchdog.daemon = True
    watchdog.start()
    try:
        del row["passed"], row["failure"]
        yield
    except torch.cuda.OutOfMemoryError as error:  # says nothing of the kernel
        row |= {"passed": None, "failure": f"not run: {str(error).splitlines()[0][:160]}"}
    except Exception as error:
        traceback.print_exc()
        row |= {"passed": False, "failure": f"{type(error).__name__}: {str(error)[:300]}"}
        if _lost():
            save()
            raise SystemExit(LOST) from error
    finally:
        watchdog.cancel()
    save()


def _lost() -> bool:
    """Whether the device no longer answers, as after an illegal access: every later call would fail."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def check(case: Case, tile: Tile) -> Row:
    """Errors of one tile against float64, the root mean square of the rows' relative ones, and whether they pass."""
    with gpu_timing.poisoned():
        result = case.run(tile)
    tensors = result if isinstance(result, tuple) else (result,)
    finite = all(bool(tensor.float().isfinite().all()) for tensor in tensors)
    found, exact, same = case.sample(result).double(), case.exact().double(), case.same().double()
    error, allowed = (
        float(((x - exact).norm(dim=-1) / exact.norm(dim=-1)).square().mean().sqrt()) for x in (found, same)
    )
    cosine = float((found * exact).sum() / (found.norm() * exact.norm()))
    good = finite and error <= 2 * allowed + case.absolute
    if case.goal:
        good = good and error <= FP8_ERROR and cosine >= FP8_COSINE
    return {"passed": good, "finite": finite, "error": error, "error_of_torch": allowed, "cosine": cosine}


def _rate(case: Case, milliseconds: float, peaks: Peaks) -> dict[str, float | None]:
    """Milliseconds, TFLOP/s or GB/s, and the share of what the device reached in this run."""
    rate = case.work / milliseconds / (1e9 if case.unit == "tflops" else 1e6)
    names = {"tflops": "fp8_tflops" if case.kernel == "fp8_attention" else "bf16_tflops", "gbps": "copy_gbps"}
    peak = peaks.get(names[case.unit])
    return {"ms": milliseconds, case.unit: rate, "of_peak": rate / peak if peak else None}
