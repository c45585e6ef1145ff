"""RMSNorm of each head, rotary positions and the head-major layout in one pass, optionally quantised to E4M3.

A program takes a block of tokens over a group of heads, which share the angles it reads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamactor.kernels.tiles import Tile


@triton.jit
def normed_rotated(
    p_x, p_weight, p_cos, p_sin, x_row, tokens, heads, first_head, EPS: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Both halves of the rotated vectors, [BLOCK, HEADS, SIZE/2] float32 each, and the mask of what is real.

    `p_x` is at the block's first token, `p_cos` and `p_sin` too; `tokens` and `heads` are what is left of each.
    """
    half: tl.constexpr = SIZE // 2
    rows = tl.arange(0, BLOCK)[:, None, None]
    heads_at = first_head + tl.arange(0, HEADS)[None, :, None]
    lanes = tl.arange(0, half)[None, None, :]
    real = (rows < tokens) & (heads_at < heads)
    pointers = p_x + rows * x_row + heads_at * SIZE + lanes
    first = tl.load(pointers, mask=real, other=0.0).to(tl.float32)
    second = tl.load(pointers + half, mask=real, other=0.0).to(tl.float32)
    square = tl.sum(first * first, 2) + tl.sum(second * second, 2)  # [BLOCK, HEADS]
    inverse = tl.rsqrt(square / SIZE + EPS)[:, :, None]
    first = first * inverse * tl.load(p_weight + lanes).to(tl.float32)
    second = second * inverse * tl.load(p_weight + half + lanes).to(tl.float32)
    angles = rows * half + lanes
    cos = tl.load(p_cos + angles, mask=rows < tokens, other=0.0).to(tl.float32)
    sin = tl.load(p_sin + angles, mask=rows < tokens, other=0.0).to(tl.float32)
    return first * cos - second * sin, second * cos + first * sin, real


@triton.jit(do_not_specialize=["heads", "tokens"])
def norm_rope_kernel(
    p_x, p_weight, p_cos, p_sin, p_out, heads, tokens, x_batch, x_row, EPS: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """x [B,N,H*D] of any batch and row stride -> out [B,H,N,D]. Grid: (blocks of tokens, groups of heads, B)."""
    half: tl.constexpr = SIZE // 2
    batch, start = tl.program_id(2).to(tl.int64), tl.program_id(0).to(tl.int64) * BLOCK
    first_head = tl.program_id(1) * HEADS
    p_x += batch * x_batch + start * x_row
    p_cos += start * half
    p_sin += start * half
    first, second, real = normed_rotated(
        p_x, p_weight, p_cos, p_sin, x_row, tokens - tl.program_id(0) * BLOCK, heads, first_head, EPS,
        SIZE, BLOCK, HEADS,
    )  # fmt: skip
    rows = tl.arange(0, BLOCK)[:, None, None]
    head = (first_head + tl.arange(0, HEADS)[None, :, None]).to(tl.int64)
    p_out += (batch * heads * tokens + start) * SIZE
    pointers = p_out + head * tokens * SIZE + rows * SIZE + tl.arange(0, half)[None, None, :]
    tl.store(pointers, first.to(p_out.dtype.element_ty), mask=real)
    tl.store(pointers + half, second.to(p_out.dtype.element_ty), mask=real)


def launch(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float, tile: Tile) -> Tensor:
    """Run the kernel; shapes as `reference.norm_rope`. `tile.block_m` tokens by `tile.block_n` heads a program."""
    batch, tokens, channels = x.shape
    size = channels // num_heads
    out = torch.empty(batch, num_heads, tokens, size, dtype=x.dtype, device=x.device)
    heads = min(tile.block_n, triton.next_power_of_2(num_heads))
    grid = (triton.cdiv(tokens, tile.block_m), triton.cdiv(num_heads, heads), batch)
    norm_rope_kernel[grid](
        x, weight, cos, sin, out, num_heads, tokens, x.stride(0), x.stride(1), EPS=eps,
        SIZE=size, BLOCK=tile.block_m, HEADS=heads, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["heads", "tokens"])
def norm_rope_fp8_kernel(
    p_x, p_weight, p_cos, p_sin, p_offset, p_out, p_scale, heads, tokens, x_batch, x_row, EPS: tl.constexpr,
    OFFSET: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The same to E4M3 with a scale a block: out [B,H,N,D], scale [B,H,T]. Grid: (B*H, T).

    With OFFSET, offset [B,H,D] is subtracted before rounding (keys: their mean). One head a program, for its registers;
    the heads of a block run beside each other, so that its angles come from the L2 cache after the first.
    """
    half: tl.constexpr = SIZE // 2
    index = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1).to(tl.int64) * BLOCK
    first, second, real = normed_rotated(
        p_x + (index // heads) * x_batch + start * x_row, p_weight, p_cos + start * half, p_sin + start * half, x_row,
        tokens - tl.program_id(1) * BLOCK, heads, (index % heads).to(tl.int32), EPS, SIZE, BLOCK, 1,
    )  # fmt: skip
    lanes = tl.arange(0, half)[None, None, :]
    if OFFSET:
        first = tl.where(real, first - tl.load(p_offset + index * SIZE + lanes), 0.0)
        second = tl.where(real, second - tl.load(p_offset + index * SIZE + half + lanes), 0.0)
    largest = tl.max(tl.max(tl.max(tl.maximum(tl.abs(first), tl.abs(second)), 2), 1), 0)
    scale = tl.where(largest > 0, largest / 448.0, 1.0)
    tl.store(p_scale + index * tl.num_programs(1) + tl.program_id(1), scale)
    pointers = p_out + (index * tokens + start) * SIZE + tl.arange(0, BLOCK)[:, None, None] * SIZE + lanes
    tl.store(pointers, (first / scale).to(p_out.dtype.element_ty), mask=real)
    tl.store(pointers + half, (second / scale).to(p_out.dtype.element_ty), mask=real)


def launch_fp8(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`launch` and `fp8.quantize` in one pass -> (E4M3 [B,H,N,D], float32 scales [B,H,ceil(N/128)])."""
    batch, tokens, channels = x.shape
    size, blocks = channels // num_heads, triton.cdiv(tokens, 128)
    out = torch.empty(batch, num_heads, tokens, size, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(batch, num_heads, blocks, dtype=torch.float32, device=x.device)
    norm_rope_fp8_kernel[(batch * num_heads, blocks)](
        x, weight, cos, sin, scale if offset is None else offset, out, scale, num_heads, tokens,
        x.stride(0), x.stride(1), EPS=eps, OFFSET=offset is not None, SIZE=size, BLOCK=128, num_warps=8,
    )  # fmt: skip
    return out, scale
