"""The operators as the networks call them on a GPU: under torch.compile, in a CUDA graph, and falling back."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamactor import kernels
from dreamactor.kernels import reference
from dreamactor.kernels.sliding_tiles import sliding_tiles

DEVICE = "cuda"
HEADS, SIZE, FRAMES, TOKENS = 4, 128, 5, 60
Function = Callable[..., Any]


def _cases() -> dict[str, tuple[Function, Function, tuple[Any, ...]]]:
    """name -> (operator, reference, arguments)."""

    def rows(*shape: int) -> Tensor:
        return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)

    length, channels, scale = FRAMES * TOKENS, HEADS * SIZE, SIZE**-0.5
    q, k, v = (rows(2, length, HEADS, SIZE).transpose(1, 2) for _ in range(3))
    k_reference, v_reference = (rows(2, HEADS, 70, SIZE) for _ in range(2))
    face_k, face_v = (rows(2, HEADS, FRAMES * 4, SIZE) for _ in range(2))
    angles = torch.randn(length, SIZE // 2, device=DEVICE)
    x, branch = rows(2, length, channels), rows(2, length, channels)
    shift, scale_rows, gate = rows(2, FRAMES, 3, channels).unbind(2)
    layout = sliding_tiles((FRAMES, 6, 10), (2, 4, 4), (1, 1, 3))
    lists = (layout.index.to(DEVICE), layout.offsets.to(DEVICE))
    segments = (q, k, v, k_reference, v_reference)
    return {
        "two_segment": (kernels.two_segment_attention, reference.two_segment_attention, (*segments, scale)),
        "fp8_attention": (kernels.fp8_attention, reference.fp8_attention, (*segments, scale)),
        "face_attention": (
            kernels.face_attention, reference.face_attention, (q, face_k, face_v, FRAMES, 1, scale)
        ),
        "norm_rope": (
            kernels.norm_rope, reference.norm_rope, (x, rows(SIZE), angles.cos(), angles.sin(), HEADS)
        ),
        "modulate_norm": (
            kernels.modulate_norm, reference.modulate_norm, (x, shift, scale_rows, branch, gate)
        ),
        "sparse_attention": (kernels.sparse_attention, reference.sparse_attention, (*segments, *lists, scale)),
    }  # fmt: skip


def _first(result: Any) -> Tensor:
    """The last of several results: the normed one."""
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
        result = _first(operator(*arguments))
    arguments[0].copy_(kept)
    graph.replay()
    torch.cuda.synchronize()
    return result


def _eager(operator: Function, arguments: tuple[Any, ...]) -> Tensor:
    return _first(operator(*arguments))


def _compiled(operator: Function, arguments: tuple[Any, ...]) -> Tensor:
    compiled: Function = torch.compile(operator, fullgraph=True)
    return _first(compiled(*arguments))


WAYS = {"eager": _eager, "compiled": _compiled, "graph": _graphed}


def check_all(only: str = "") -> list[dict[str, Any]]:
    """Eager, compiled and captured results of each operator against the reference in float32."""
    found = []
    for name, (operator, plain, arguments) in _cases().items():
        if only not in name:
            continue
        row: dict[str, Any] = {"kernel": name}
        try:
            with torch.no_grad():
                wide = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
                exact = _first(plain(*wide))
                for way, call in WAYS.items():
                    difference = call(operator, arguments).float() - exact
                    row[way] = float(difference.norm() / exact.norm())
            bound = 0.06 if name == "fp8_attention" else 0.02
            row["passed"] = all(row[way] < bound for way in WAYS)
        except Exception as error:
            traceback.print_exc()
            row |= {"passed": False, "failure": f"{type(error).__name__}: {str(error)[:300]}"}
        found.append(row)
    return found
