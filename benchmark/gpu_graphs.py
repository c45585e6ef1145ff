"""The operators as the networks call them on a GPU: under torch.compile, in a CUDA graph, and falling back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamactor import kernels
from dreamactor.benchmark.gpu_measure import step
from dreamactor.benchmark.gpu_report import Report
from dreamactor.kernels import reference
from dreamactor.kernels.sliding_tiles import sliding_tiles

DEVICE = "cuda"
HEADS, SIZE, FRAMES, TOKENS = 4, 128, 5, 60
LENGTH, CHANNELS, SCALE = FRAMES * TOKENS, HEADS * SIZE, SIZE**-0.5
FALLBACK = "float32, on the reference"
Function = Callable[..., Any]
Arguments = tuple[Any, ...]


def _rows(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def _segments() -> Arguments:
    q, k, v = (_rows(2, LENGTH, HEADS, SIZE).transpose(1, 2) for _ in range(3))
    return (q, k, v, *(_rows(2, HEADS, 70, SIZE) for _ in range(2)))


def _face() -> Arguments:
    k, v = (_rows(2, HEADS, FRAMES * 4, SIZE) for _ in range(2))
    return (_rows(2, LENGTH, HEADS, SIZE).transpose(1, 2), k, v, FRAMES, 1, SCALE)


def _rope() -> Arguments:
    angles = torch.randn(LENGTH, SIZE // 2, device=DEVICE)
    return (_rows(2, LENGTH, CHANNELS), _rows(SIZE), angles.cos(), angles.sin(), HEADS)


def _modulation() -> Arguments:
    shift, scale, gate = _rows(2, FRAMES, 3, CHANNELS).unbind(2)
    return (_rows(2, LENGTH, CHANNELS), shift, scale, _rows(2, LENGTH, CHANNELS), gate)


def _lists() -> Arguments:
    layout = sliding_tiles((FRAMES, 6, 10), (2, 4, 4), (1, 1, 3))
    return (layout.index.to(DEVICE), layout.offsets.to(DEVICE))


def _normed_fp8(*arguments: Any) -> Tensor:
    return reference.dequantize_blocks(*kernels.norm_rope_fp8(*arguments))


def _normed(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, heads: int, eps: float, offset: Tensor) -> Tensor:
    return reference.norm_rope(x, weight, cos, sin, heads, eps) - offset[:, :, None]


# (kernel, variant) -> (operator, reference, its arguments)
CASES: dict[tuple[str, str], tuple[Function, Function, Callable[[], Arguments]]] = {
    ("two_segment", ""): (
        kernels.two_segment_attention, reference.two_segment_attention, lambda: (*_segments(), SCALE)
    ),
    ("fp8_attention", ""): (kernels.fp8_attention, reference.fp8_attention, lambda: (*_segments(), SCALE)),
    ("face_attention", ""): (kernels.face_attention, reference.face_attention, _face),
    ("norm_rope", ""): (kernels.norm_rope, reference.norm_rope, _rope),
    ("norm_rope", "to E4M3"): (
        _normed_fp8, _normed, lambda: (*_rope(), 1e-6, torch.randn(2, HEADS, SIZE, device=DEVICE))
    ),
    ("modulate_norm", ""): (kernels.modulate_norm, reference.modulate_norm, _modulation),
    ("modulate_norm", "ungated"): (kernels.modulate_norm, reference.modulate_norm, lambda: _modulation()[:3]),
    ("sparse_attention", ""): (
        kernels.sparse_attention, reference.sparse_attention, lambda: (*_segments(), *_lists(), SCALE)
    ),
    ("two_segment", FALLBACK): (
        kernels.two_segment_attention, reference.two_segment_attention,
        lambda: (*(tensor.float() for tensor in _segments()), SCALE),
    ),
}  # fmt: skip


def _output(result: Any) -> Tensor:
    """What is compared: of several results the last, the normed one."""
    tensor = result[-1] if isinstance(result, tuple) else result
    assert isinstance(tensor, Tensor)
    return tensor


def _graphed(operator: Function, arguments: tuple[Any, ...]) -> Tensor:
    """The result of replaying a CUDA graph whose inputs were changed after the capture and put back."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        operator(*arguments)
    torch.cuda.current_stream().wait_stream(stream)
    graph: Any = torch.cuda.CUDAGraph()
    kept = arguments[0].clone()
    arguments[0].zero_()
    with torch.cuda.graph(graph):
        result = _output(operator(*arguments))
    arguments[0].copy_(kept)
    graph.replay()
    torch.cuda.synchronize()
    return result


def _eager(operator: Function, arguments: tuple[Any, ...]) -> Tensor:
    return _output(operator(*arguments))


def _compiled(operator: Function, arguments: tuple[Any, ...]) -> Tensor:
    compiled: Function = torch.compile(operator, fullgraph=True, dynamic=False)
    return _output(compiled(*arguments))


WAYS = {"eager": _eager, "compiled": _compiled, "graph": _graphed}


def bound(kernel: str, variant: str) -> float:
    """The relative error allowed: E4M3 keeps three bits of mantissa, float32 more than any kernel gives."""
    if variant == FALLBACK:
        return 1e-3
    return 0.06 if kernel == "fp8_attention" or "E4M3" in variant else 0.02


def check(kernel: str, variant: str) -> dict[str, float]:
    """Relative errors of the eager, compiled and captured operator against the reference in float32, by way."""
    operator, plain, make = CASES[kernel, variant]
    arguments = make()
    with torch.no_grad():
        wide = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
        exact = _output(plain(*wide))
        found = {way: call(operator, arguments).float() - exact for way, call in WAYS.items()}
        return {way: float(difference.norm() / exact.norm()) for way, difference in found.items()}


def check_all(report: Report, run: str, only: str, until: float) -> None:
    """Every operator whose kernel has `only` in its name; what this `run` has already done is not done again."""
    for kernel, variant in CASES:
        if only not in kernel or time.monotonic() > until:
            continue
        row = report.row("compiled_and_graphs", run, kernel=kernel, variant=variant)
        if "passed" in row:
            continue
        with step(row, report.save):
            row |= check(kernel, variant)
            row["passed"] = all(row[way] < bound(kernel, variant) for way in WAYS)
