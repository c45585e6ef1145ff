"""What TensorRT would launch: each plugin's outputs, scalars and grid, of plain shapes, through the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamactor.kernels import plugin, reference
from dreamactor.kernels.tiles import Tile
from tests.kernels.kernel_testing import Numbers, relative_error, within

Load = Callable[[str], ModuleType]
TILE = Tile(128, 64, 4, 1)
SCALE = 0.125
FLOATS = {"half": torch.float16, "FP8": torch.float8_e4m3fn, "FP32": torch.float32}


def launch(interpreted: Load, name: str, *inputs: Tensor, outputs: list[Tensor] | None = None, **given: Any) -> Any:
    """The outputs of one plugin, as large as it says that they are, or those given; NaN where nothing was written."""
    (entry,) = (entry for entry in plugin.PLUGINS if entry.name == name)
    shapes = [tuple(tensor.shape) for tensor in inputs]
    given |= {name: shapes[index][axis] for name, (index, axis) in entry.fixed.items()}
    source = entry.source(TILE, shapes[0][-1], "fp16", given, 90)
    kernel = getattr(interpreted(source.kernel.__module__.rpartition(".")[2]), source.kernel.__name__)
    types = [FLOATS[kind] for kind in entry.types[len(inputs) :]]
    sizes = zip(entry.outputs(Numbers, shapes), types, strict=True)
    outputs = outputs or [torch.full(shape, float("nan")).to(dtype) for shape, dtype in sizes]
    grid = entry.grid(Numbers, shapes, TILE)
    kernel[grid](*inputs, *entry.scalars(shapes), *outputs, **source.constants)
    return outputs if len(outputs) > 1 else outputs[0]


def segments(tokens: int, keys: int, references: int) -> list[Tensor]:
    lengths = (tokens, keys, keys, references, references)
    return [torch.randn(2, 3, length, 64).half() for length in lengths]


def test_flash_attention(interpreted: Load) -> None:
    inputs = segments(130, 70, 18)
    exact = reference.two_segment_attention(*(tensor.double() for tensor in inputs), SCALE)
    same = reference.two_segment_attention(*inputs, SCALE)
    found = launch(interpreted, "FlashAttention", *inputs, scale=SCALE)
    assert within(found, same, exact), relative_error(found, exact)


def test_face_attention(interpreted: Load) -> None:
    q, k, v = (torch.randn(2, 3, 2, count, 64).half() for count in (130, 5, 5))  # two frames
    joined = [tensor.flatten(2, 3) for tensor in (q, k, v)]
    exact = reference.face_attention(*(tensor.double() for tensor in joined), 2, 1, SCALE)
    same = reference.face_attention(*joined, 2, 1, SCALE)
    found = launch(interpreted, "FaceAttention", q, k, v, window=1, scale=SCALE)
    assert within(found, same, exact), relative_error(found, exact)


@pytest.mark.parametrize("name", ["QuantizeBlocks", "QuantizeValues"])
def test_no_tokens_are_one_launch_that_does_nothing(interpreted: Load, name: str) -> None:
    """A grid of 0 is refused, and there is no memory to write to."""
    (entry,) = (entry for entry in plugin.PLUGINS if entry.name == name)
    x = torch.zeros(2, 3, 0, 64).half()
    assert entry.grid(Numbers, [x.shape], TILE) == (1, 6, 1)
    beyond = [torch.full((128 * 64,), 7.0).to(dtype) for dtype in (torch.float8_e4m3fn, torch.float32)]
    launch(interpreted, name, x, torch.ones(2, 3, 64), outputs=beyond)
    assert all((tensor.float() == 7).all() for tensor in beyond)


@pytest.mark.parametrize("references", [18, 0])
def test_quantised_attention(interpreted: Load, references: int) -> None:
    """The three plugins together, as the graph has them: keys less their mean, values transposed."""
    inputs = segments(130, 140, references)
    q, k, v, k_reference, v_reference = inputs
    k[..., 3] += 100  # all of E4M3's range, were it not taken off
    k_reference[..., 3] += 100
    mean = interpreted("fp8").mean_key(k, k_reference)
    none = torch.zeros_like(mean)
    parts = [
        launch(interpreted, "QuantizeBlocks", q, none), launch(interpreted, "QuantizeBlocks", k, mean),
        launch(interpreted, "QuantizeValues", v, none), launch(interpreted, "QuantizeBlocks", k_reference, mean),
        launch(interpreted, "QuantizeValues", v_reference, none),
    ]  # fmt: skip
    quantised = [part[0] for part in parts] + [part[1] for part in parts]
    exact = reference.two_segment_attention(*(tensor.double() for tensor in inputs), SCALE)
    same = reference.fp8_attention(*inputs, SCALE)
    found = launch(interpreted, "FlashAttentionFP8", *quantised, scale=SCALE)
    assert within(found, same, exact, 2e-3), relative_error(found, exact)
