"""A denoising step at m1's width on this machine's GPU, in each way of `gpu_ways`.

`python -m dreamactor.benchmark.gpu_denoiser` writes benchmark/results/gpu_denoiser_DEVICE_DATE.json. A few blocks are
timed and the step is extrapolated to m1's depth, as the report says: blocks are equal, so the difference between two
depths is the time of the blocks between them. All ways at both depths are timed in turn, round by round; a figure is
the rounds' median, its interval from the smallest to the largest, which holds the true median in 98 of 100 cases. A way
whose output differs too much gets none.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from dreamactor.benchmark.gpu_ways import FP8, OURS, WAYS, Call, Grid, inputs, model, operations, ways
from dreamactor.benchmark.schema import finite
from dreamactor.files import write_whole
from dreamactor.presets import TransformerConfig, preset

RESULTS = Path(__file__).resolve().parent / "results"
# Relative L2 against eager, of the velocity.
BOUNDS = {"compiled": 2e-2, **dict.fromkeys(OURS, 2e-2), **dict.fromkeys(FP8, 1e-1)}
PEAK_GOAL, FP8_GOAL = 0.55, 1.3  # of the faster way with our kernels, and of FP8's over it
ROUNDS = 7
GRIDS = (Grid(7, 80, 120), Grid(20, 80, 120))  # 16 800 and 48 000 tokens of 640x960
Clock = Callable[[Call], float]  # milliseconds of a call


def measure(
    config: TransformerConfig, grid: Grid, depths: tuple[int, int], device: str, dtype: torch.dtype, clock: Clock,
    wanted: Collection[str] = WAYS,
) -> dict[str, Any]:  # fmt: skip
    """Milliseconds of each way at both depths, `ROUNDS` of each in turn, and of the whole step at `config.depth`."""
    rows: dict[str, Any] = {name: {"relative_error": 0.0, "milliseconds": {}} for name in wanted}
    given = inputs(grid, device, dtype)
    cases = [
        (depth, name, call)
        for depth in depths
        for name, call in _correct(ways(model(config, depth, device, dtype), given, wanted), rows)
    ]
    for _ in range(ROUNDS):
        for depth, name, call in cases:
            with _noted(rows[name]):
                rows[name]["milliseconds"].setdefault(depth, []).append(clock(call))
    for row in rows.values():
        if "problem" not in row:
            row |= extrapolated(row["milliseconds"], config.depth)
    return {
        "tokens": grid.tokens,
        "depths": list(depths),
        "operations": operations(config, config.depth, grid),
        "ways": rows,
    }


def _correct(calls: Mapping[str, Call], rows: Mapping[str, Any]) -> Iterator[tuple[str, Call]]:
    """The ways whose output is eager's within the bounds; the error of each goes into its row. What eager raises is
    raised: without it nothing can be judged."""
    expected = calls["eager"]().double()
    for name, call in calls.items():
        with _noted(rows[name]):
            error = float((call().double() - expected).norm() / expected.norm())
            error = error if math.isfinite(error) else math.inf  # NaN never passes
            rows[name]["relative_error"] = max(rows[name]["relative_error"], error)
            if error <= BOUNDS.get(name, 0.0):
                yield name, call


@contextmanager
def _noted(row: dict[str, Any]) -> Iterator[None]:
    """What goes wrong inside is the row's problem; Triton's own errors are no RuntimeError."""
    try:
        yield
    except Exception as problem:
        row["problem"] = f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:200]}"


def extrapolated(milliseconds: Mapping[int, Sequence[float]], depth: int) -> dict[str, Any]:
    """Time of a block, from two depths, and of a step of `depth` blocks, round by round, with its median and ends; {}
    unless both depths were timed."""
    if len(milliseconds) < 2:
        return {}
    few, many = sorted(milliseconds)
    pairs = list(zip(milliseconds[few], milliseconds[many], strict=True))
    blocks = [(long - short) / (many - few) for short, long in pairs]
    steps = [long + (depth - many) * block for (_, long), block in zip(pairs, blocks, strict=True)]
    return {
        "block_ms": median(blocks), "step_ms": median(steps), "low": min(steps), "high": max(steps), "steps_ms": steps,
    }  # fmt: skip


def judged(result: dict[str, Any], peaks: Mapping[str, float | None]) -> dict[str, Any]:
    """Adds the share of the measured bf16 peak of each way, and the goals."""
    rows, peak = result["ways"], peaks.get("bf16_tflops")
    for row in rows.values():
        if peak and "step_ms" in row:
            row["tflops"] = result["operations"] / row["step_ms"] / 1e9
            row["of_bf16_peak"] = row["tflops"] / peak
    goals: dict[str, Any] = {}
    ours, low = (_fastest(rows, names) for names in (OURS, FP8))
    if ours and "of_bf16_peak" in ours:
        goals["bf16 share of peak"] = {"found": ours["of_bf16_peak"], "goal": PEAK_GOAL}
    if ours and low:
        ratios = [slow / fast for slow, fast in zip(ours["steps_ms"], low["steps_ms"], strict=True)]
        goals["fp8 over bf16"] = {
            "found": median(ratios), "low": min(ratios), "high": max(ratios), "goal": FP8_GOAL,
        }  # fmt: skip
    return {**result, "goals": goals}


def _fastest(rows: Mapping[str, dict[str, Any]], names: Sequence[str]) -> dict[str, Any] | None:
    timed = [rows[name] for name in names if "step_ms" in rows.get(name, {})]
    return min(timed, key=lambda row: float(row["step_ms"]), default=None)


def main() -> int:
    """Runs both sizes; 1 when a way's output was off, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--blocks", type=int, nargs=2, default=(2, 4), help="the two depths that are timed")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA GPU here; run this on a machine that has one.", file=sys.stderr)
        return 2
    from dreamactor.benchmark import gpu_timing

    report: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), **gpu_timing.environment(),
        "peaks": gpu_timing.peaks(),
        "note": f"one evaluation, batch of one; step_ms extrapolated from the depths timed, median of {ROUNDS} rounds",
    }  # fmt: skip
    torch._dynamo.config.recompile_limit = 64  # all ways, depths and sizes are compiled from the same functions
    config, depths = preset("m1").transformer, (options.blocks[0], options.blocks[1])
    options.output.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"\W+", "_", report["device"])
    path = options.output / f"gpu_denoiser_{device}_{report['date'][:10]}.json"
    report["sizes"] = []
    for grid in GRIDS:
        try:
            found: dict[str, Any] = {"before": gpu_timing.state()}
            found |= measure(config, grid, depths, "cuda", torch.bfloat16, gpu_timing.once_ms)
            found["after"] = gpu_timing.state()
        except Exception as problem:  # the other size still runs
            found = {"tokens": grid.tokens, "problem": f"{type(problem).__name__}: {problem}"[:300], "ways": {}}
            print(f"{grid.tokens} tokens: {found['problem']}", file=sys.stderr)
        report["sizes"].append(judged(found, report["peaks"]))
        write_whole(path, (json.dumps(finite(report), indent=1, allow_nan=False) + "\n").encode())
    for result in report["sizes"]:
        for name, row in result["ways"].items():
            took = row.get("problem", "no figure: output is off")
            if "step_ms" in row:
                took = f"{row['step_ms']:9.1f} ms [{row['low']:.1f}, {row['high']:.1f}]"
            share = f"{row['of_bf16_peak']:.0%} of bf16 peak" if "of_bf16_peak" in row else ""
            print(f"{result['tokens']:7d} tokens  {name:9s} {took}  {share}  error {row['relative_error']:.1e}")
        print(json.dumps(result["goals"]))
    print(f"Written: {path}")
    broken = any("problem" in result for result in report["sizes"])
    wrong = any(off(name, row) for result in report["sizes"] for name, row in result["ways"].items())
    return 1 if broken or wrong else 0


def off(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a way failed or its output was wrong; FP8 may fail on a device that does not have it."""
    failed = "problem" in row and (name not in FP8 or torch.cuda.get_device_capability() >= (8, 9))
    return failed or row["relative_error"] > BOUNDS.get(name, 0)


if __name__ == "__main__":
    sys.exit(main())
