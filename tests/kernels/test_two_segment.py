"""Two-segment attention in the interpreter against float64, at every edge a segment has."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from dreamactor.kernels import reference
from dreamactor.kernels.tiles import Tile
from tests.kernels.kernel_testing import relative_error, within

Load = Callable[[str], ModuleType]
pytestmark = pytest.mark.usefixtures("poisoned")
SMALL = Tile(32, 16, 4, 1)
LENGTHS = [(40, 50, 21), (1, 1, 0), (33, 0, 17), (16, 64, 0), (5, 16, 1)]


def inputs(queries: int, keys: int, references: int, size: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    q = torch.randn(1, 2, queries, size)
    k, v = torch.randn(2, 1, 2, keys, size).unbind()
    k_reference, v_reference = torch.randn(2, 1, 2, references, size).unbind()
    return tuple(tensor.to(dtype) for tensor in (q, k, v, k_reference, v_reference))


def check(module: ModuleType, tensors: tuple[Tensor, ...], tile: Tile) -> None:
    scale = tensors[0].shape[-1] ** -0.5
    exact = reference.two_segment_attention(*(tensor.double() for tensor in tensors), scale)
    same = reference.two_segment_attention(*tensors, scale)
    result = module.launch(*tensors, scale, tile)
    assert result.dtype == tensors[0].dtype
    assert within(result, same, exact), (relative_error(result, exact), relative_error(same, exact))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_lengths(interpreted: Load, lengths: tuple[int, int, int]) -> None:
    check(interpreted("two_segment"), inputs(*lengths, 64, torch.bfloat16), SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("size", [64, 128])
def test_types_and_head_sizes(interpreted: Load, size: int, dtype: torch.dtype) -> None:
    check(interpreted("two_segment"), inputs(20, 33, 18, size, dtype), SMALL)


def test_outliers(interpreted: Load) -> None:
    q, k, v, k_reference, v_reference = inputs(20, 33, 18, 64, torch.bfloat16)
    k[:, :, 7] *= 1e3
    v[:, :, 3] *= 1e3
    q[:, :, 5] *= 30
    check(interpreted("two_segment"), (q, k, v, k_reference, v_reference), SMALL)


def test_saturation(interpreted: Load) -> None:
    """Scores of 1e4 and more, where all weight falls on one key, and values near fp16's largest."""
    q, k, v, k_reference, v_reference = inputs(20, 33, 18, 64, torch.float16)
    tensors = (q * 100, k * 100, v.sign() * 6e4, k_reference * 100, v_reference.sign() * 6e4)
    check(interpreted("two_segment"), tensors, SMALL)
    assert interpreted("two_segment").launch(*tensors, 0.125, SMALL).isfinite().all()


def test_strided_views_are_read_in_place(interpreted: Load) -> None:
    """Values as the network has them: a chunk of a fused projection, head axis swapped in."""
    qkv = torch.randn(2, 37, 3 * 2 * 64).to(torch.float16)
    q, k, v = (part.unflatten(-1, (2, 64)).transpose(1, 2) for part in qkv.chunk(3, -1))
    assert not v.is_contiguous()
    check(interpreted("two_segment"), (q, k, v, k[:, :, :9], v[:, :, 5:14]), SMALL)
