"""The step all attention kernels share: one block of keys and values into the running softmax of a block of queries.

Scores are kept in the base-2 domain: `scale_log2` is scale * log2(e), folded into one multiply-add before exp2. Blocks
beyond the last key are read clamped (always valid memory, finite where the input is) and masked in the scores, and only
the last block of a segment pays for that.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(pointer, row_stride, valid, BLOCK: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr):
    """[BLOCK, SIZE] rows from `pointer`; with MASKED, rows from `valid` on repeat the last valid one."""
    rows = tl.arange(0, BLOCK)
    if MASKED:
        rows = tl.minimum(rows, valid - 1)
    return tl.load(pointer + rows[:, None] * row_stride + tl.arange(0, SIZE)[None, :])


@triton.jit
def load_columns(pointer, row_stride, valid, BLOCK: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr):
    """The same rows transposed: [SIZE, BLOCK]."""
    rows = tl.arange(0, BLOCK)
    if MASKED:
        rows = tl.minimum(rows, valid - 1)
    return tl.load(pointer + rows[None, :] * row_stride + tl.arange(0, SIZE)[:, None])


@triton.jit
def softmax_update(scores, maximum, total, scale_log2, valid, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    """Probabilities of one block and the running (maximum, total), with the factor for what was summed before."""
    if MASKED:
        scores = tl.where(tl.arange(0, BLOCK)[None, :] < valid, scores, -float("inf"))
    new_maximum = tl.maximum(maximum, tl.max(scores, 1) * scale_log2)
    probabilities = tl.exp2(scores * scale_log2 - new_maximum[:, None])
    decay = tl.exp2(maximum - new_maximum)
    return probabilities, new_maximum, total * decay + tl.sum(probabilities, 1), decay


@triton.jit
def attend_block(
    q, p_k, p_v, k_row, v_row, valid, maximum, total, acc, scale_log2,
    BLOCK: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """q [BLOCK_M, SIZE] over one block of keys; `valid` of its rows are real (used with MASKED only)."""
    k = load_columns(p_k, k_row, valid, BLOCK, SIZE, MASKED)
    scores = tl.dot(q, k)
    p, maximum, total, decay = softmax_update(scores, maximum, total, scale_log2, valid, BLOCK, MASKED)
    v = load_rows(p_v, v_row, valid, BLOCK, SIZE, MASKED)
    return maximum, total, tl.dot(p.to(v.dtype), v, acc * decay[:, None])


@triton.jit
def attend_segment(
    q, p_k, p_v, k_row, v_row, tokens, maximum, total, acc, scale_log2,
    BLOCK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """All `tokens` keys of one buffer: whole blocks without a mask, then the ragged rest with one."""
    whole = tokens // BLOCK * BLOCK
    for start in tl.range(0, whole, BLOCK):
        k_at = p_k + tl.cast(start, tl.int64) * k_row
        v_at = p_v + tl.cast(start, tl.int64) * v_row
        maximum, total, acc = attend_block(
            q, k_at, v_at, k_row, v_row, BLOCK, maximum, total, acc, scale_log2, BLOCK, SIZE, False
        )
    for start in tl.range(whole, tokens, BLOCK, num_stages=1):
        k_at = p_k + tl.cast(start, tl.int64) * k_row
        v_at = p_v + tl.cast(start, tl.int64) * v_row
        maximum, total, acc = attend_block(
            q, k_at, v_at, k_row, v_row, tokens - start, maximum, total, acc, scale_log2, BLOCK, SIZE, True
        )
    return maximum, total, acc


@triton.jit
def store_rows(p_out, acc, total, row_stride, valid, BLOCK: tl.constexpr, SIZE: tl.constexpr):
    """acc / total to [BLOCK, SIZE] rows of the output, the first `valid` of them."""
    rows = tl.arange(0, BLOCK)
    pointers = p_out + rows[:, None] * row_stride + tl.arange(0, SIZE)[None, :]
    tl.store(pointers, (acc / total[:, None]).to(p_out.dtype.element_ty), mask=rows[:, None] < valid)
