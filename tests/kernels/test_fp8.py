"""FP8 attention in the interpreter: its blocks against torch's casts, its output against float64."""

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
SIZE = 128
TILE = Tile(64, 64, 4, 1)
SCALE = SIZE**-0.5


def inputs(queries: int, keys: int, references: int) -> tuple[Tensor, ...]:
    lengths = (queries, keys, keys, references, references)
    return tuple(torch.randn(1, 1, length, SIZE).to(torch.bfloat16) for length in lengths)


def check(module: ModuleType, tensors: tuple[Tensor, ...], tile: Tile = TILE) -> Tensor:
    exact = reference.two_segment_attention(*(tensor.double() for tensor in tensors), SCALE)
    same = reference.fp8_attention(*tensors, SCALE)
    result: Tensor = module.launch(*tensors, SCALE, tile)
    assert result.dtype == torch.bfloat16
    assert within(result, same, exact, 2e-3), (relative_error(result, exact), relative_error(same, exact))
    return result


@pytest.mark.parametrize("lengths", [(70, 150, 40), (1, 1, 0), (5, 0, 130), (64, 128, 64)], ids=str)
def test_lengths(interpreted: Load, lengths: tuple[int, int, int]) -> None:
    check(interpreted("fp8"), inputs(*lengths))


def test_error_goal_on_e4m3_inputs(interpreted: Load) -> None:
    """The goal in NOTES.md, relative L2 at most 3e-2 and cosine at least 0.9995, for inputs that are E4M3 already.

    From N(0,1) inputs in bf16 the rounding of Q, K and V alone gives about 5e-2, whatever the kernel: see `check`.
    """
    q, k, v, k_reference, v_reference = inputs(64, 256, 64)
    mean = interpreted("fp8").mean_key(k, k_reference)[:, :, None]
    centred = (q, k - mean, v, k_reference - mean, v_reference)
    rounded = [reference.dequantize_blocks(*reference.quantize_blocks(tensor)) for tensor in centred]
    exact = reference.two_segment_attention(*(tensor.double() for tensor in rounded), SCALE).flatten()
    result = interpreted("fp8").launch(q, k, v, k_reference, v_reference, SCALE, TILE).double().flatten()
    assert relative_error(result, exact) <= 3e-2
    assert float(result @ exact / (result.norm() * exact.norm())) >= 0.9995


def test_mean_key_is_taken_off(interpreted: Load) -> None:
    """A channel that is large in every key would take all of E4M3's range; the softmax does not see it."""
    q, k, v, k_reference, v_reference = inputs(64, 128, 64)
    k[..., 3] += 100
    k_reference[..., 3] += 100
    check(interpreted("fp8"), (q, k, v, k_reference, v_reference))


def test_outliers_and_empty_blocks(interpreted: Load) -> None:
    """An outlier of 1e3 costs its own block alone; a block of zeros has a scale all the same."""
    q, k, v, k_reference, v_reference = inputs(64, 256, 64)
    v[:, :, 5, 7] = 1e3
    v[:, :, 128:] = 0
    q[:, :, 9] *= 30
    check(interpreted("fp8"), (q, k, v, k_reference, v_reference))


def test_saturation(interpreted: Load) -> None:
    """Each block's largest becomes E4M3's largest exactly, whatever it was; nothing overflows to NaN."""
    x = torch.randn(1, 1, 200, SIZE) * 10.0 ** torch.arange(-20, 30, 0.25)[:, None]
    for transpose in (False, True):
        out, scale = interpreted("fp8").quantize(x.to(torch.bfloat16), transpose=transpose)
        assert out.float().isfinite().all()
        assert float(out.float().abs().max()) == 448
        assert scale.isfinite().all()
    q, k, v, k_reference, v_reference = inputs(64, 128, 64)
    check(interpreted("fp8"), (q * 1e3, k * 1e3, v * 1e20, k_reference * 1e3, v_reference * 1e20))


@pytest.mark.parametrize("largest", [0.0, 1e-44, 1e-37, 9e-31])
def test_a_block_of_as_good_as_zeros_is_zeros(interpreted: Load, largest: float) -> None:
    """Its scale's inverse would be infinite, and zeros times that not a number."""
    x = torch.zeros(1, 1, 130, SIZE)
    x[..., 0] = largest
    x[:, :, 128:] = 2.0
    for found, scale in (interpreted("fp8").quantize(x), reference.quantize_blocks(x)):
        assert found[:, :, :128].float().abs().max() == 0
        assert scale[0, 0, 0] == 1
        assert found[:, :, 128:].float().min() == 448


@pytest.mark.parametrize("block_n", [32, 128])
def test_other_key_blocks(interpreted: Load, block_n: int) -> None:
    check(interpreted("fp8"), inputs(64, 200, 30), Tile(128, block_n, 4, 1))


def test_quantised_blocks_equal_torch(interpreted: Load) -> None:
    x = (torch.randn(1, 2, 200, SIZE) * torch.logspace(-3, 3, 200)[:, None]).to(torch.bfloat16)
    out, scale = interpreted("fp8").quantize(x)
    expected, expected_scale = reference.quantize_blocks(x)
    torch.testing.assert_close(scale, expected_scale, rtol=1e-6, atol=0)
    assert out.shape == x.shape
    assert (out.float() == expected.float()).float().mean() > 0.999  # the scale's last bit may move a tie


def test_values_are_transposed_in_thread_order(interpreted: Load) -> None:
    v = torch.randn(1, 2, 200, SIZE)
    rows, _ = interpreted("fp8").quantize(v)
    columns, _ = interpreted("fp8").quantize(v, transpose=True)
    within_16 = [8 * i + 2 * t + j for t in range(4) for i in range(2) for j in range(2)]
    order = torch.tensor([16 * group + position for group in range(16) for position in within_16])
    padded = torch.nn.functional.pad(rows.float(), (0, 0, 0, 56))
    assert torch.equal(columns.float(), padded[:, :, order].transpose(2, 3))
