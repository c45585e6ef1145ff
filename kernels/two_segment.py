"""Attention over two buffers of keys and values, video and reference tokens, as if they were concatenated.

Two entries share `softmax.attend_segment`: one for PyTorch with any strides, one for TensorRT's ahead-of-time plugin
(contiguous, no floats among its arguments). On Hopper PyTorch takes the kernel in `specialized`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamactor.kernels.softmax import attend_segment, load_rows, store_rows
from dreamactor.kernels.tiles import Tile

LOG2_E = math.log2(math.e)


@triton.jit
def _attend(
    p_q, p_k, p_v, p_k_reference, p_v_reference, p_out, q_row, k_row, v_row, k_reference_row, v_reference_row, out_row,
    tokens, key_tokens, reference_tokens,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One block of queries; every pointer is at its head's first row, the query's and output's at the block's."""
    valid = tokens - tl.program_id(0) * BLOCK_M
    q = load_rows(p_q, q_row, valid, BLOCK_M, SIZE, True)
    maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, SIZE], tl.float32)
    maximum, total, acc = attend_segment(
        q, p_k, p_v, k_row, v_row, key_tokens, maximum, total, acc, SCALE_LOG2, BLOCK_N, SIZE
    )
    maximum, total, acc = attend_segment(
        q, p_k_reference, p_v_reference, k_reference_row, v_reference_row, reference_tokens,
        maximum, total, acc, SCALE_LOG2, BLOCK_N, SIZE,
    )  # fmt: skip
    store_rows(p_out, acc, total, out_row, valid, BLOCK_M, SIZE)


@triton.jit(do_not_specialize=["heads", "tokens", "key_tokens", "reference_tokens"])
def two_segment_kernel(
    p_q, p_k, p_v, p_k_reference, p_v_reference, p_out, heads, tokens, key_tokens, reference_tokens,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    k_reference_batch, k_reference_head, k_reference_row, v_reference_batch, v_reference_head, v_reference_row,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Any strides with the last one 1; out [B,M,H*D] contiguous. Grid: (blocks of queries, B*H)."""
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    out_row = heads * SIZE
    _attend(
        p_q + batch * q_batch + head * q_head + first * q_row,
        p_k + batch * k_batch + head * k_head,
        p_v + batch * v_batch + head * v_head,
        p_k_reference + batch * k_reference_batch + head * k_reference_head,
        p_v_reference + batch * v_reference_batch + head * v_reference_head,
        p_out + (batch * tokens + first) * out_row + head * SIZE,
        q_row, k_row, v_row, k_reference_row, v_reference_row, out_row, tokens, key_tokens, reference_tokens,
        SCALE_LOG2, SIZE, BLOCK_M, BLOCK_N,
    )  # fmt: skip


@triton.jit
def flash_attention_plugin(
    p_q, p_k, p_v, p_k_reference, p_v_reference, heads, tokens, key_tokens, reference_tokens, p_out,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The same for TensorRT: inputs, int32 scalars, outputs; everything contiguous [B,H,N,D]."""
    index = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    out_row = heads * SIZE
    _attend(
        p_q + (index * tokens + first) * SIZE,
        p_k + index * key_tokens * SIZE,
        p_v + index * key_tokens * SIZE,
        p_k_reference + index * reference_tokens * SIZE,
        p_v_reference + index * reference_tokens * SIZE,
        p_out + ((index // heads) * tokens + first) * out_row + (index % heads) * SIZE,
        SIZE, SIZE, SIZE, SIZE, SIZE, out_row, tokens, key_tokens, reference_tokens,
        SCALE_LOG2, SIZE, BLOCK_M, BLOCK_N,
    )  # fmt: skip


def launch(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float, tile: Tile
) -> Tensor:
    """Run the kernel; shapes as `reference.two_segment_attention`, the last dimension of each of stride 1."""
    if tile.specialized:
        from dreamactor.kernels import specialized

        return specialized.launch(q, k, v, k_reference, v_reference, scale, tile)
    batch, heads, tokens, size = q.shape
    out = torch.empty(batch, tokens, heads * size, dtype=q.dtype, device=q.device)
    constants: dict[str, Any] = {
        "SCALE_LOG2": scale * LOG2_E, "SIZE": size, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n,
        "num_warps": tile.num_warps, "num_stages": tile.num_stages,
    }  # fmt: skip
    grid = (triton.cdiv(tokens, tile.block_m), batch * heads)
    lengths = (heads, tokens, k.shape[2], k_reference.shape[2])
    tensors = (q, k, v, k_reference, v_reference)
    strides = [stride for tensor in tensors for stride in tensor.stride()[:3]]
    two_segment_kernel[grid](*tensors, out, *lengths, *strides, **constants)
    return out
