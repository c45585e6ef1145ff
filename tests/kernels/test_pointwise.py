"""The memory-bound kernels in the interpreter against float64: norm and rotary, modulation and norm."""

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
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "heads", "size"), [(37, 3, 64), (1, 1, 64), (16, 4, 128)])
def test_norm_rope(interpreted: Load, tokens: int, heads: int, size: int, dtype: torch.dtype) -> None:
    fused = torch.randn(2, tokens, 3 * heads * size).to(dtype)
    x = fused.chunk(3, -1)[1]  # a strided view, as the network has it
    x[:, 0] *= 1e3
    x[:, 1:2] = 0  # normed by the epsilon alone
    weight = torch.rand(size).to(dtype) + 0.5
    angles = torch.randn(tokens, size // 2)
    cos, sin = angles.cos(), angles.sin()
    exact = reference.norm_rope(x.double(), weight.double(), cos.double(), sin.double(), heads)
    same = reference.norm_rope(x, weight, cos, sin, heads)
    result = interpreted("rotary").launch(x, weight, cos, sin, heads, 1e-6, Tile(8, 2, 4, 1))
    assert result.dtype == dtype
    assert within(result, same, exact, 1e-6), (relative_error(result, exact), relative_error(same, exact))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("frames", "per_frame", "channels"), [(3, 7, 96), (1, 1, 64), (2, 16, 128)])
@pytest.mark.parametrize("gated", [False, True])
def test_modulate_norm(
    interpreted: Load, gated: bool, frames: int, per_frame: int, channels: int, dtype: torch.dtype
) -> None:
    x, branch = torch.randn(2, 2, frames * per_frame, channels).to(dtype).unbind()
    x[:, 0] += 30
    x[:, 1:2], branch[:, 1:2] = 3, 0  # of no variance but the epsilon
    shift, scale, gate = torch.randn(2, frames, 9, channels).to(dtype).unbind(2)[:3]  # rows nine apart
    check_modulate(interpreted("modulate"), x, shift, scale, *((branch, gate) if gated else ()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_modulate_norm_of_outliers(interpreted: Load, dtype: torch.dtype) -> None:
    """A channel of 1e3, and all of a row around 1e3, whose variance is what is left of it."""
    x, branch = torch.randn(2, 2, 6, 96).to(dtype).unbind()
    x[:, 2, 5] = 1e3
    x[:, 4] += 1e3
    shift, scale, gate = torch.randn(3, 2, 3, 96).to(dtype).unbind()
    check_modulate(interpreted("modulate"), x, shift, scale, branch, gate)


def check_modulate(module: ModuleType, x: Tensor, shift: Tensor, scale: Tensor, *gated: Tensor) -> None:
    exact = reference.modulate_norm(*(tensor.double() for tensor in (x, shift, scale, *gated)))
    same = reference.modulate_norm(x, shift, scale, *gated)
    residual, normed = module.launch(x, shift, scale, *(gated or (None, None)), 1e-6, Tile(4, 0, 4, 1))
    error = relative_error(normed, exact[1])
    assert within(normed, same[1], exact[1], 5e-6), (error, relative_error(same[1], exact[1]))
    if gated:
        assert within(residual, same[0], exact[0], 1e-6)
    else:
        assert residual is None


def test_references_keep_float64() -> None:
    """What the kernels are held against is not itself rounded to float32."""
    x, weight = torch.randn(2, 4, 96, dtype=torch.float64), torch.rand(32, dtype=torch.float64)
    angles = torch.randn(4, 16, dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()
    heads = x.unflatten(-1, (3, 32)).transpose(1, 2)
    normed = heads / (heads.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    first, second = normed.chunk(2, -1)
    expected = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    torch.testing.assert_close(reference.norm_rope(x, weight, cos, sin, 3), expected, rtol=1e-12, atol=1e-14)
    shift, scale = torch.randn(2, 2, 1, 96, dtype=torch.float64).unbind()
    centred = x[:1] - x[:1].mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    rows = [part[:, 0].repeat_interleave(2, 0)[None] for part in (scale, shift)]
    _, found = reference.modulate_norm(x[:1], shift.transpose(0, 1), scale.transpose(0, 1))
    torch.testing.assert_close(found, normed * (1 + rows[0]) + rows[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shift", [False, True])
def test_norm_rope_to_fp8_equals_the_two_steps(interpreted: Load, shift: bool) -> None:
    tokens, heads, size = 150, 2, 64
    x = torch.randn(1, tokens, heads * size).to(torch.bfloat16)
    weight = torch.rand(size) + 0.5
    angles = torch.randn(tokens, size // 2)
    offset = torch.randn(1, heads, size) if shift else None
    out, scale = interpreted("rotary").launch_fp8(x, weight, angles.cos(), angles.sin(), heads, 1e-6, offset)
    rotated = reference.norm_rope(x.float(), weight, angles.cos(), angles.sin(), heads)
    expected, expected_scale = reference.quantize_blocks(rotated if offset is None else rotated - offset[:, :, None])
    torch.testing.assert_close(scale, expected_scale, rtol=1e-5, atol=0)
    assert out.shape == (1, heads, tokens, size)
    assert (out.float() == expected.float()).float().mean() > 0.995


def test_norm_rope_to_fp8_saturates_nowhere(interpreted: Load) -> None:
    """Rows of any magnitude, outlier channels, a block of zeros: each block's largest becomes E4M3's largest."""
    tokens, heads, size = 400, 2, 64
    x = torch.randn(1, tokens, heads * size) * 10.0 ** torch.linspace(-15, 15, tokens)[:, None]
    x[:, 256:384] = 0
    weight = torch.rand(size) + 0.5
    weight[3] = 1e3
    angles = torch.randn(tokens, size // 2)
    given = (x, weight, angles.cos(), angles.sin(), heads)
    out, scale = interpreted("rotary").launch_fp8(*given, 1e-6)
    expected, expected_scale = reference.norm_rope_fp8(*given)
    torch.testing.assert_close(scale, expected_scale, rtol=1e-5, atol=0)
    largest = [float(block.float().abs().max()) for block in out.split(128, 2)]
    assert largest == [448, 448, 0, 448]
    assert (out.float() == expected.float()).float().mean() > 0.995
