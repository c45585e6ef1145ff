"""Block-sparse attention in the interpreter, and the sliding tiles that feed it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from dreamactor.errors import InputError
from dreamactor.kernels import checks, reference
from dreamactor.kernels.sliding_tiles import sliding_tiles
from dreamactor.kernels.tiles import Tile
from tests.kernels.kernel_testing import relative_error, within

Load = Callable[[str], ModuleType]
SIZE = 64
SCALE = SIZE**-0.5


def inputs(tokens: int, references: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, ...]:
    lengths = (tokens, tokens, tokens, references, references)
    return tuple(torch.randn(1, 2, length, SIZE).to(dtype) for length in lengths)


def check(module: ModuleType, tensors: tuple[Tensor, ...], index: Tensor, offsets: Tensor, block_n: int = 16) -> Tensor:
    exact = reference.sparse_attention(*(t.double() for t in tensors), index, offsets, SCALE)
    same = reference.sparse_attention(*tensors, index, offsets, SCALE)
    result: Tensor = module.launch(*tensors, index, offsets, SCALE, Tile(32, block_n, 4, 1))
    assert within(result, same, exact), (relative_error(result, exact), relative_error(same, exact))
    return result


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("references", [0, 21])
@pytest.mark.parametrize("block_n", [16, 32])
def test_agrees(interpreted: Load, block_n: int, references: int) -> None:
    layout = sliding_tiles((3, 5, 6), (2, 4, 4), (1, 1, 3))
    check(interpreted("sparse"), inputs(90, references), layout.index, layout.offsets, block_n)


@pytest.mark.usefixtures("poisoned")
def test_padded_lists(interpreted: Load) -> None:
    """Rows of different lengths, -1 anywhere."""
    index = torch.tensor([[1, -1, -1], [-1, 0, 2], [2, 1, 0]], dtype=torch.int32)
    offsets = torch.tensor([0, 16, 23, 40], dtype=torch.int32)
    check(interpreted("sparse"), inputs(40, 3, torch.float16), index, offsets)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("references", [0, 3])
def test_one_token(interpreted: Load, references: int) -> None:
    layout = sliding_tiles((1, 1, 1))
    check(interpreted("sparse"), inputs(1, references), layout.index, layout.offsets)


@pytest.mark.usefixtures("poisoned")
def test_outliers_and_saturation(interpreted: Load) -> None:
    """Outliers of 1e3; then scores of 1e4 and more, all weight on one key, and values near fp16's largest."""
    layout = sliding_tiles((1, 4, 6), (1, 4, 4), (1, 1, 1))
    lists = (layout.index, layout.offsets)
    q, k, v, k_reference, v_reference = inputs(24, 5)
    k[:, :, 7] *= 1e3
    v[:, :, 3] *= 1e3
    q[:, :, 5] *= 30
    check(interpreted("sparse"), (q, k, v, k_reference, v_reference), *lists)
    q, k, v, k_reference, v_reference = inputs(24, 5, torch.float16)
    tensors = (q * 100, k * 100, v.sign() * 6e4, k_reference * 100, v_reference.sign() * 6e4)
    assert check(interpreted("sparse"), tensors, *lists).isfinite().all()


def test_a_window_of_everything_is_dense() -> None:
    layout = sliding_tiles((3, 5, 6), (2, 4, 4), (9, 9, 9))
    assert layout.density == pytest.approx(1)
    tensors = inputs(90, 4, torch.float32)
    in_tiles = [t[:, :, layout.order] if t.shape[2] == 90 else t for t in tensors]
    sparse = reference.sparse_attention(*in_tiles, layout.index, layout.offsets, SCALE)[:, layout.inverse]  # type: ignore[call-arg]
    torch.testing.assert_close(sparse, reference.two_segment_attention(*tensors, SCALE))


def test_quality_against_dense_grows_with_the_window() -> None:
    """Attention that falls off with distance, as video's does: the error is small and shrinks as the window grows."""
    grid = (6, 10, 12)
    where = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in grid), indexing="ij"), -1).flatten(0, 2)
    waves = torch.randn(3, SIZE // 2) * 0.25
    features = torch.cat([(where @ waves).cos(), (where @ waves).sin()], 1)[None, None]
    q = k = features * 3
    v = torch.randn(1, 1, len(where), SIZE)
    none = v[:, :, :0]
    dense = reference.two_segment_attention(q, k, v, none, none, SCALE)
    errors = []
    for window in ((1, 1, 1), (1, 3, 3), (3, 3, 3)):
        layout = sliding_tiles(grid, (2, 4, 4), window)
        order = layout.order
        out = reference.sparse_attention(
            q[:, :, order], k[:, :, order], v[:, :, order], none, none, layout.index, layout.offsets, SCALE
        )
        errors.append(relative_error(out[:, layout.inverse], dense))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1


def test_the_segment_of_the_paper_size() -> None:
    """19 latent frames of 40 by 60 tokens: every token in one tile, no tile above 128."""
    layout = sliding_tiles((19, 40, 60))
    lengths = layout.offsets.diff()
    assert int(lengths.sum()) == 45600
    assert int(lengths.max()) == 128
    assert torch.equal(layout.order.sort().values, torch.arange(45600))
    assert layout.density < 0.1


def test_bad_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 128"):
        sliding_tiles((4, 8, 8), (4, 8, 8))
    with pytest.raises(ValueError, match="even"):
        sliding_tiles((4, 8, 8), window=(2, 3, 3))


def test_lists_of_another_type_are_refused() -> None:
    layout = sliding_tiles((4, 8, 8))
    q = torch.zeros(1, 1, 256, 64)
    checks.lists(q, q, layout.index, layout.offsets)
    with pytest.raises(InputError, match=r"block_index is torch.int64, block_offsets torch.int32; expected int32"):
        checks.lists(q, q, layout.index.long(), layout.offsets)
