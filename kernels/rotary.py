"""RMSNorm of each head, rotary positions and the head-major layout in one pass, optionally quantised to E4M3.

A program takes a block of tokens over a group of heads, which share the angles it reads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamactor.kernels.reference import FP8_BLOCK, FP8_LEAST, FP8_MAX
from dreamactor.kernels.tiles import Tile

FP8_HEADS, FP8_STAGES, FP8_WARPS = 16, 3, 16  # a program of the kernel to E4M3; one fills an SM
LARGEST, LEAST = tl.constexpr(FP8_MAX), tl.constexpr(FP8_LEAST)


@triton.jit
def _load_halves(pointers, real, HALF: tl.constexpr):
    """Both halves of the vectors at `pointers` in float32, zeros where nothing is real."""
    first = tl.load(pointers, mask=real, other=0.0).to(tl.float32)
    return first, tl.load(pointers + HALF, mask=real, other=0.0).to(tl.float32)


@triton.jit
def _normed_rotated(first, second, p_weight, cos, sin, EPS: tl.constexpr, HALF: tl.constexpr):
    """Both halves of the vectors [tokens, heads, HALF], normalised and rotated by the angles [tokens, 1, HALF]."""
    lanes = tl.arange(0, HALF)[None, None, :]
    square = tl.sum(first * first, 2) + tl.sum(second * second, 2)
    inverse = tl.rsqrt(square / (2 * HALF) + EPS)[:, :, None]
    first = first * inverse * tl.load(p_weight + lanes).to(tl.float32)
    second = second * inverse * tl.load(p_weight + HALF + lanes).to(tl.float32)
    return first * cos - second * sin, second * cos + first * sin


@triton.jit(do_not_specialize=["heads", "tokens"])
def norm_rope_kernel(
    p_x, p_weight, p_cos, p_sin, p_out, heads, tokens, x_batch, x_row, EPS: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """x [B,N,H*D] of any batch and row stride -> out [B,H,N,D]. Grid: (blocks of tokens by groups of heads, B).

    The groups of a block run beside each other, so that its angles come from the L2 cache after the first.
    """
    half: tl.constexpr = SIZE // 2
    groups = tl.cdiv(heads, HEADS)
    block, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    batch, start = tl.program_id(1).to(tl.int64), block.to(tl.int64) * BLOCK
    rows, lanes = tl.arange(0, BLOCK)[:, None, None], tl.arange(0, half)[None, None, :]
    head = group * HEADS + tl.arange(0, HEADS)[None, :, None]
    there = rows < tokens - block * BLOCK
    real = there & (head < heads)
    cos = tl.load(p_cos + start * half + rows * half + lanes, mask=there, other=0.0).to(tl.float32)
    sin = tl.load(p_sin + start * half + rows * half + lanes, mask=there, other=0.0).to(tl.float32)
    p_x += batch * x_batch + start * x_row
    first, second = _load_halves(p_x + rows * x_row + head * SIZE + lanes, real, half)
    first, second = _normed_rotated(first, second, p_weight, cos, sin, EPS, half)
    p_out += (batch * heads * tokens + start) * SIZE
    pointers = p_out + head.to(tl.int64) * tokens * SIZE + rows * SIZE + lanes
    tl.store(pointers, first.to(p_out.dtype.element_ty), mask=real)
    tl.store(pointers + half, second.to(p_out.dtype.element_ty), mask=real)


def launch(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float, tile: Tile) -> Tensor:
    """Run the kernel; shapes as `reference.norm_rope`. `tile.block_m` tokens by `tile.block_n` heads a program."""
    batch, tokens, channels = x.shape
    size = channels // num_heads
    out = torch.empty(batch, num_heads, tokens, size, dtype=x.dtype, device=x.device)
    heads = min(tile.block_n, triton.next_power_of_2(num_heads))
    grid = (triton.cdiv(tokens, tile.block_m) * triton.cdiv(num_heads, heads), batch)
    norm_rope_kernel[grid](
        x, weight, cos, sin, out, num_heads, tokens, x.stride(0), x.stride(1), EPS=eps,
        SIZE=size, BLOCK=tile.block_m, HEADS=heads, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["heads", "tokens"])
def norm_rope_fp8_kernel(
    p_x, p_weight, p_cos, p_sin, p_offset, p_out, p_scale, heads, tokens, x_batch, x_row, EPS: tl.constexpr,
    OFFSET: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The same to E4M3 with a scale a block: out [B,H,N,D], scale [B,H,T]. Grid: (groups of heads, T, B).

    With OFFSET, offset [B,H,D] is subtracted before rounding (keys: their mean). A block's angles are twice its vectors
    of one head, so they are kept for a group of heads, whose vectors are fetched ahead.
    """
    half: tl.constexpr = SIZE // 2
    batch, start = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64) * BLOCK
    rows, lanes = tl.arange(0, BLOCK)[:, None, None], tl.arange(0, half)[None, None, :]
    real = rows < tokens - tl.program_id(1) * BLOCK
    cos = tl.load(p_cos + start * half + rows * half + lanes, mask=real, other=0.0).to(tl.float32)
    sin = tl.load(p_sin + start * half + rows * half + lanes, mask=real, other=0.0).to(tl.float32)
    p_x += batch * x_batch + start * x_row
    first_head = tl.program_id(0) * HEADS
    for head in tl.range(first_head, tl.minimum(first_head + HEADS, heads), num_stages=STAGES):
        first, second = _load_halves(p_x + rows * x_row + head * SIZE + lanes, real, half)
        first, second = _normed_rotated(first, second, p_weight, cos, sin, EPS, half)
        index = batch * heads + head
        if OFFSET:
            first = tl.where(real, first - tl.load(p_offset + index * SIZE + lanes), 0.0)
            second = tl.where(real, second - tl.load(p_offset + index * SIZE + half + lanes), 0.0)
        largest = tl.max(tl.max(tl.max(tl.maximum(tl.abs(first), tl.abs(second)), 2), 1), 0)
        scale = tl.where(largest > LEAST, largest / LARGEST, 1.0)
        inverse = 1.0 / scale  # once: a division is several instructions an element
        tl.store(p_scale + index * tl.num_programs(1) + tl.program_id(1), scale)
        pointers = p_out + (index * tokens + start) * SIZE + rows * SIZE + lanes
        tl.store(pointers, (first * inverse).to(p_out.dtype.element_ty), mask=real)
        tl.store(pointers + half, (second * inverse).to(p_out.dtype.element_ty), mask=real)


def launch_fp8(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`launch` and `fp8.quantize` in one pass -> (E4M3 [B,H,N,D], float32 scales [B,H,ceil(N/128)])."""
    batch, tokens, channels = x.shape
    size, blocks = channels // num_heads, triton.cdiv(tokens, FP8_BLOCK)
    out = torch.empty(batch, num_heads, tokens, size, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(batch, num_heads, blocks, dtype=torch.float32, device=x.device)
    norm_rope_fp8_kernel[(triton.cdiv(num_heads, FP8_HEADS), blocks, batch)](
        x, weight, cos, sin, scale if offset is None else offset, out, scale, num_heads, tokens,
        x.stride(0), x.stride(1), EPS=eps, OFFSET=offset is not None, SIZE=size, BLOCK=FP8_BLOCK, HEADS=FP8_HEADS,
        STAGES=FP8_STAGES, num_warps=FP8_WARPS,
    )  # fmt: skip
    return out, scale
