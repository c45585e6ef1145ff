"""A denoising step at m1's width on this machine's GPU: PyTorch eager, compiled, our kernels in bf16, FP8, and these
two with the rest compiled around them.

`python -m dreamactor.benchmark.gpu_denoiser` writes benchmark/results/gpu_denoiser_DEVICE_DATE.json. A few blocks are
timed and the step is extrapolated to m1's depth, which the report says: blocks are equal, so the difference between
two depths is the time of the blocks between them. FP8 is the products of the blocks (E4M3, a scale a row and a
column, `torch._scaled_mm`) and the attention kernel. All ways at both depths are timed in turn, round by round; a
figure is the rounds' median, its interval the smallest to the largest, which holds it in 98 of 100 cases. A way whose
output differs too much gets none.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dreamactor import kernels
from dreamactor.benchmark.schema import finite
from dreamactor.kernels import reference
from dreamactor.networks import transformer
from dreamactor.presets import LATENT_CHANNELS, TransformerConfig, preset, video_frames

RESULTS = Path(__file__).resolve().parent / "results"
OURS, FP8 = ("kernels", "kernels compiled"), ("fp8", "fp8 compiled")  # the faster of each is judged
# Relative L2 against eager, of the velocity.
BOUNDS = {"compiled": 2e-2, **dict.fromkeys(OURS, 2e-2), **dict.fromkeys(FP8, 1e-1)}
PEAK_GOAL, FP8_GOAL = 0.55, 1.3
E4M3_MAX = 448.0
ROUNDS = 7
WAYS = ("eager", "compiled", *OURS, *FP8)
KERNELS = ("two_segment_attention", "norm_rope", "face_attention", "modulate_norm")
PLAIN = SimpleNamespace(**{name: getattr(reference, name) for name in KERNELS})  # one object: compiled code asks for it
Call = Callable[[], Tensor]
Clock = Callable[[Call], float]  # milliseconds of a call


@dataclass(frozen=True)
class Grid:
    """Latent frames, rows and columns of the video (rows and columns even); one reference of a frame's size."""

    frames: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        return self.frames * self.rows * self.columns // 4


GRIDS = (Grid(7, 80, 120), Grid(20, 80, 120))  # 16 800 and 48 000 tokens of 640x960


class Fp8Linear(nn.Module):
    """A linear layer whose product runs in E4M3: weights scaled a column once, inputs a row each call."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / E4M3_MAX
        self.weight, self.scale = (weight / scale).to(torch.float8_e4m3fn), scale.t().contiguous()
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        scale = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / E4M3_MAX
        rounded = (rows.float() / scale).to(torch.float8_e4m3fn)
        out: Tensor = torch._scaled_mm(rounded, self.weight.t(), scale, self.scale, bias=self.bias, out_dtype=x.dtype)
        return out.reshape(*x.shape[:-1], -1)


def model(config: TransformerConfig, depth: int, device: str, dtype: torch.dtype) -> transformer.Transformer:
    """A transformer of `config`'s width with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        built = transformer.Transformer(dataclasses.replace(config, depth=depth), 512, LATENT_CHANNELS)
    return built.to(dtype).eval()


def inputs(grid: Grid, device: str, dtype: torch.dtype, seed: int = 1) -> tuple[Tensor, ...]:
    """Random inputs of `Transformer.forward`, a batch of one; guidance doubles the batch and the time."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    frames, size = grid.frames, (grid.rows, grid.columns)
    return (
        normal(1, LATENT_CHANNELS, frames, *size), torch.full((1, frames), 0.7, device=device, dtype=dtype),
        normal(1, LATENT_CHANNELS, frames, *size), normal(1, video_frames(frames), 512),
        normal(1, 1, LATENT_CHANNELS, *size), normal(1, 1, LATENT_CHANNELS, *size),
    )  # fmt: skip


@contextmanager
def using(functions: SimpleNamespace) -> Iterator[None]:
    """Inside, the transformer calls these functions in place of the kernels of the same names."""
    before = vars(transformer)["kernels"]
    vars(transformer)["kernels"] = functions
    try:
        yield
    finally:
        vars(transformer)["kernels"] = before


def plain() -> AbstractContextManager[None]:
    """Inside, every kernel is its reference in PyTorch: what one has without this project."""
    return using(PLAIN)


def to_fp8(network: transformer.Transformer) -> None:
    """Replaces the linear layers of the blocks, in place; embeddings and the last projection stay as they are."""
    for block in network.blocks:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                parent, _, leaf = name.rpartition(".")
                setattr(block.get_submodule(parent), leaf, Fp8Linear(layer))


def operations(config: TransformerConfig, depth: int, grid: Grid) -> int:
    """Of one evaluation, counted by PyTorch on tensors without memory."""
    with plain(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = model(config, depth, "meta", torch.bfloat16)
        shapes = [torch.empty(t.shape, device="meta", dtype=t.dtype) for t in _shapes(grid)]
        network(*shapes)
    return int(counter.get_total_flops())


def ways(network: transformer.Transformer, given: tuple[Tensor, ...], wanted: Collection[str]) -> dict[str, Call]:
    """One evaluation of the network in each way wanted, eager first."""
    ours = SimpleNamespace(**{name: getattr(kernels, name) for name in KERNELS})
    made: dict[str, Call] = {
        "eager": partial(_under, PLAIN, network, given),
        "compiled": partial(_under, PLAIN, torch.compile(network, dynamic=False), given),
        "kernels": partial(_under, ours, network, given),
        "kernels compiled": partial(_under, ours, torch.compile(network, dynamic=False), given),
    }
    if set(FP8) & set(wanted):
        low = copy.deepcopy(network)
        to_fp8(low)
        theirs = SimpleNamespace(**{**vars(ours), "two_segment_attention": kernels.fp8_attention})
        made[FP8[0]] = partial(_under, theirs, low, given)
        made[FP8[1]] = partial(_under, theirs, torch.compile(low, dynamic=False), given)
    return {name: call for name, call in made.items() if name in wanted}


def _under(functions: SimpleNamespace, network: Callable[..., Tensor], given: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad(), using(functions):
        return network(*given)


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
    """The ways whose output is eager's within the bounds; the error of each goes into its row. Raises what eager
    raises: without it nothing can be judged."""
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
        except Exception as problem:  # the other size is of interest
            found = {"tokens": grid.tokens, "problem": f"{type(problem).__name__}: {problem}"[:300], "ways": {}}
            print(f"{grid.tokens} tokens: {found['problem']}", file=sys.stderr)
        report["sizes"].append(judged(found, report["peaks"]))
        path.write_text(json.dumps(finite(report), indent=1, allow_nan=False) + "\n")
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
    """Whether a way failed or its output was wrong; FP8 may be more than the device can."""
    failed = "problem" in row and (name not in FP8 or torch.cuda.get_device_capability() >= (8, 9))
    return failed or row["relative_error"] > BOUNDS.get(name, 0)


def _shapes(grid: Grid) -> tuple[Tensor, ...]:
    return inputs(Grid(grid.frames, grid.rows, grid.columns), "cpu", torch.bfloat16)


if __name__ == "__main__":
    sys.exit(main())
