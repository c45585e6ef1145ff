"""The memory-bound kernels in the interpreter against float64: norm and rotary, modulation and norm."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

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
    shift, scale, gate = torch.randn(2, frames, 9, channels).to(dtype).unbind(2)[:3]  # rows nine apart
    extra = (branch, gate) if gated else (None, None)
    tensors = [None if t is None else t.double() for t in (x, shift, scale, *extra)]
    exact = reference.modulate_norm(*tensors)  # type: ignore[arg-type]
    same = reference.modulate_norm(x, shift, scale, *extra)
    residual, normed = interpreted("modulate").launch(x, shift, scale, *extra, 1e-6, Tile(4, 0, 4, 1))
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
