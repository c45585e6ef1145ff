"""Each latent frame's tokens attend to the face tokens of the frames around it, without a mask tensor.

The window's keys are contiguous rows, few enough to be one block, so there is no loop: the kernel reads the queries
once and writes the output once, and memory bounds it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamactor.kernels.softmax import load_columns, load_rows, store_rows
from dreamactor.kernels.tiles import Tile
from dreamactor.kernels.two_segment import LOG2_E


@triton.jit
def _attend_frame(
    p_q, p_k, p_v, p_out, q_row, k_row, v_row, out_row, queries, frame, frames, group, WINDOW: tl.constexpr,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One block of a frame's queries; q and out are at the block's first row, k and v at their head's first."""
    valid = queries - tl.program_id(0) * BLOCK_M
    first = tl.maximum(frame - WINDOW, 0)
    keys = (tl.minimum(frame + WINDOW + 1, frames) - first) * group
    start = (first * group).to(tl.int64)
    q = load_rows(p_q, q_row, valid, BLOCK_M, SIZE, True)
    k = load_columns(p_k + start * k_row, k_row, keys, BLOCK_N, SIZE, True)
    v = load_rows(p_v + start * v_row, v_row, keys, BLOCK_N, SIZE, True)
    scores = tl.where(tl.arange(0, BLOCK_N)[None, :] < keys, tl.dot(q, k) * SCALE_LOG2, -float("inf"))
    p = tl.exp2(scores - tl.max(scores, 1)[:, None])
    store_rows(p_out, tl.dot(p.to(v.dtype), v), tl.sum(p, 1), out_row, valid, BLOCK_M, SIZE)


@triton.jit(do_not_specialize=["heads", "frames", "queries", "group"])
def face_kernel(
    p_q, p_k, p_v, p_out, heads, frames, queries, group, q_batch, q_head, q_row, k_batch, k_head, k_row,
    v_batch, v_head, v_row, WINDOW: tl.constexpr,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Any strides with the last one 1; out [B,F*P,H*D]. Grid: (blocks of a frame's queries, frames, B*H)."""
    batch, head = (tl.program_id(2) // heads).to(tl.int64), (tl.program_id(2) % heads).to(tl.int64)
    frame = tl.program_id(1)
    first = frame.to(tl.int64) * queries + tl.program_id(0) * BLOCK_M
    _attend_frame(
        p_q + batch * q_batch + head * q_head + first * q_row,
        p_k + batch * k_batch + head * k_head,
        p_v + batch * v_batch + head * v_head,
        p_out + ((batch * frames * queries + first) * heads + head) * SIZE,
        q_row, k_row, v_row, heads * SIZE, queries, frame, frames, group, WINDOW,
        SCALE_LOG2, SIZE, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def face_attention_plugin(
    p_q, p_k, p_v, heads, frames, queries, group, p_out, WINDOW: tl.constexpr,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The same for TensorRT: contiguous q [B,H,F,P,D], k and v [B,H,F,G,D]."""
    index = tl.program_id(2).to(tl.int64)
    frame = tl.program_id(1)
    first = frame.to(tl.int64) * queries + tl.program_id(0) * BLOCK_M
    _attend_frame(
        p_q + (index * frames * queries + first) * SIZE,
        p_k + index * frames * group * SIZE,
        p_v + index * frames * group * SIZE,
        p_out + (((index // heads) * frames * queries + first) * heads + index % heads) * SIZE,
        SIZE, SIZE, SIZE, heads * SIZE, queries, frame, frames, group, WINDOW,
        SCALE_LOG2, SIZE, BLOCK_M, BLOCK_N,
    )  # fmt: skip


def key_block(window: int, group: int) -> int:
    """The block that holds a whole window of face tokens: a power of two, at least the matrix unit's 16."""
    return max(16, int(triton.next_power_of_2((2 * window + 1) * group)))


def launch(q: Tensor, k: Tensor, v: Tensor, frames: int, window: int, scale: float, tile: Tile) -> Tensor:
    """Run the kernel; shapes as `reference.face_attention`, the last dimension of each of stride 1."""
    batch, heads, tokens, size = q.shape
    queries, group = tokens // frames, k.shape[2] // frames
    out = torch.empty(batch, tokens, heads * size, dtype=q.dtype, device=q.device)
    grid = (triton.cdiv(queries, tile.block_m), frames, batch * heads)
    strides = [stride for tensor in (q, k, v) for stride in tensor.stride()[:3]]
    face_kernel[grid](
        q, k, v, out, heads, frames, queries, group, *strides,
        WINDOW=window, SCALE_LOG2=scale * LOG2_E, SIZE=size, BLOCK_M=tile.block_m, BLOCK_N=key_block(window, group),
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out
