"""Attention over two buffers of keys and values, video and reference tokens, as if they were concatenated.

Three entries share `softmax.attend_segment`: one for PyTorch with any strides, one for TensorRT's ahead-of-time plugin
(contiguous, no floats among its arguments), one for Hopper that reads keys and values through tensor descriptors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from dreamactor.kernels.softmax import attend_segment, load_rows, softmax_update, store_rows
from dreamactor.kernels.tiles import Tile

LOG2_E = math.log2(math.e)


@triton.jit
def _attend(
    p_q, p_k, p_v, p_k_reference, p_v_reference, p_out, q_row, k_row, v_row, k_reference_row, v_reference_row, out_row,
    tokens, key_tokens, reference_tokens,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PAIR: tl.constexpr,
):  # fmt: skip
    """One block of queries; every pointer is at its head's first row, the query's and output's at the block's."""
    valid = tokens - tl.program_id(0) * BLOCK_M
    q = load_rows(p_q, q_row, valid, BLOCK_M, SIZE, True)
    maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, SIZE], tl.float32)
    maximum, total, acc = attend_segment(
        q, p_k, p_v, k_row, v_row, key_tokens, maximum, total, acc, SCALE_LOG2, BLOCK_N, SIZE, PAIR
    )
    maximum, total, acc = attend_segment(
        q, p_k_reference, p_v_reference, k_reference_row, v_reference_row, reference_tokens,
        maximum, total, acc, SCALE_LOG2, BLOCK_N, SIZE, PAIR,
    )  # fmt: skip
    store_rows(p_out, acc, total, out_row, valid, BLOCK_M, SIZE)


@triton.jit(do_not_specialize=["heads", "tokens", "key_tokens", "reference_tokens"])
def two_segment_kernel(
    p_q, p_k, p_v, p_k_reference, p_v_reference, p_out, heads, tokens, key_tokens, reference_tokens,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    k_reference_batch, k_reference_head, k_reference_row, v_reference_batch, v_reference_head, v_reference_row,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PAIR: tl.constexpr,
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
        SCALE_LOG2, SIZE, BLOCK_M, BLOCK_N, PAIR,
    )  # fmt: skip


@triton.jit
def flash_attention_plugin(
    p_q, p_k, p_v, p_k_reference, p_v_reference, heads, tokens, key_tokens, reference_tokens, p_out,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PAIR: tl.constexpr,
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
        SCALE_LOG2, SIZE, BLOCK_M, BLOCK_N, PAIR,
    )  # fmt: skip


@triton.jit
def _attend_described(
    q, k_desc, v_desc, batch, head, tokens, maximum, total, acc, scale_log2, BLOCK: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """`attend_segment` through tensor descriptors; rows beyond the end are read as zeros."""
    whole = tokens // BLOCK * BLOCK
    for start in tl.range(0, whole, BLOCK):
        k = k_desc.load([batch, head, start, 0]).reshape(BLOCK, SIZE)
        scores = tl.dot(q, k.T)
        p, maximum, total, decay = softmax_update(scores, maximum, total, scale_log2, BLOCK, BLOCK, False)
        v = v_desc.load([batch, head, start, 0]).reshape(BLOCK, SIZE)
        acc = tl.dot(p.to(v.dtype), v, acc * decay[:, None])
    for start in tl.range(whole, tokens, BLOCK, num_stages=1):
        k = k_desc.load([batch, head, start, 0]).reshape(BLOCK, SIZE)
        scores = tl.dot(q, k.T)
        p, maximum, total, decay = softmax_update(scores, maximum, total, scale_log2, tokens - start, BLOCK, True)
        v = v_desc.load([batch, head, start, 0]).reshape(BLOCK, SIZE)
        acc = tl.dot(p.to(v.dtype), v, acc * decay[:, None])
    return maximum, total, acc


@triton.jit(do_not_specialize=["heads", "tokens", "key_tokens", "reference_tokens"])
def two_segment_tma_kernel(
    p_q, k_desc, v_desc, k_reference_desc, v_reference_desc, p_out, heads, tokens, key_tokens, reference_tokens,
    q_batch, q_head, q_row,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Keys and values as descriptors of [B,H,N,D] with blocks [1,1,BLOCK_N,D]."""
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    valid = tokens - tl.program_id(0) * BLOCK_M
    p_q += batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head + first * q_row
    q = load_rows(p_q, q_row, valid, BLOCK_M, SIZE, True)
    maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, SIZE], tl.float32)
    maximum, total, acc = _attend_described(
        q, k_desc, v_desc, batch, head, key_tokens, maximum, total, acc, SCALE_LOG2, BLOCK_N, SIZE
    )
    maximum, total, acc = _attend_described(
        q, k_reference_desc, v_reference_desc, batch, head, reference_tokens,
        maximum, total, acc, SCALE_LOG2, BLOCK_N, SIZE,
    )  # fmt: skip
    p_out += (batch.to(tl.int64) * tokens + first) * (heads * SIZE) + head * SIZE
    store_rows(p_out, acc, total, heads * SIZE, valid, BLOCK_M, SIZE)


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
    if tile.tma:
        block = [1, 1, tile.block_n, size]
        # A descriptor of nothing cannot be made; a segment of no keys is never read, so any other buffer stands for it.
        buffers = ((k, v), (k_reference, v_reference))
        pairs = [pair if pair[0].shape[2] else next(p for p in buffers if p[0].shape[2]) for pair in buffers]
        described = [TensorDescriptor.from_tensor(tensor, block) for pair in pairs for tensor in pair]
        two_segment_tma_kernel[grid](q, *described, out, *lengths, *q.stride()[:3], **constants)
    else:
        tensors = (q, k, v, k_reference, v_reference)
        strides = [stride for tensor in tensors for stride in tensor.stride()[:3]]
        two_segment_kernel[grid](*tensors, out, *lengths, *strides, PAIR=tile.pair, **constants)
    return out
