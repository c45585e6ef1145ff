"""Face attention in the interpreter against float64."""

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
TILE = Tile(16, 0, 4, 1)


def inputs(frames: int, queries: int, group: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(2, frames * queries, 2 * size).unflatten(-1, (2, size)).transpose(1, 2)
    k, v = (torch.randn(2, frames * group, 2, size).transpose(1, 2) for _ in range(2))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def check(module: ModuleType, tensors: tuple[Tensor, Tensor, Tensor], frames: int, window: int) -> None:
    q, k, v = tensors
    scale = q.shape[-1] ** -0.5
    exact = reference.face_attention(q.double(), k.double(), v.double(), frames, window, scale)
    same = reference.face_attention(q, k, v, frames, window, scale)
    result = module.launch(q, k, v, frames, window, scale, TILE)
    assert within(result, same, exact), (relative_error(result, exact), relative_error(same, exact))


@pytest.mark.parametrize(
    ("frames", "queries", "group", "window", "size"),
    [(5, 19, 4, 1, 64), (1, 1, 4, 1, 64), (3, 16, 1, 0, 64), (3, 5, 4, 8, 64), (2, 17, 4, 1, 128)],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_agrees(
    interpreted: Load, frames: int, queries: int, group: int, window: int, size: int, dtype: torch.dtype
) -> None:
    q, k, v = inputs(frames, queries, group, size, dtype)
    k[:, :, 2 % k.shape[2]] *= 100
    check(interpreted("face"), (q, k, v), frames, window)


def test_outliers(interpreted: Load) -> None:
    q, k, v = inputs(3, 5, 4, 64, torch.bfloat16)
    k[:, :, 7] *= 1e3
    v[:, :, 3] *= 1e3
    q[:, :, 5] *= 30
    check(interpreted("face"), (q, k, v), 3, 1)
