"""Two-segment attention for Hopper in Gluon, Triton's lower level: one warp loads, two groups of four warps compute.

Each group has half of the block's queries and runs at its own pace, so that one's exponentials fall beside the other's
products. Within a group, too, the scores of a block are being multiplied while the values of the block before are
summed up, and become probabilities meanwhile, as in FlashAttention-3 (arXiv 2407.08608, section 3.2).
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from dreamactor.kernels import rings
from dreamactor.kernels.rings import GROUP_ROWS
from dreamactor.kernels.tiles import Tile
from dreamactor.kernels.two_segment import LOG2_E


@gluon.jit
def _softmax(scores, maximum, total, SCALE_LOG2: gl.constexpr):
    """Probabilities of one block, the running maximum and total, and the factor for what was summed before."""
    new_maximum = gl.maximum(maximum, gl.max(scores, 1) * SCALE_LOG2)
    probabilities = gl.exp2(scores * SCALE_LOG2 - gl.expand_dims(new_maximum, 1))
    decay = gl.exp2(maximum - new_maximum)
    return probabilities, new_maximum, total * decay + gl.sum(probabilities, 1), decay


@gluon.jit
def _width(spans, block, BLOCK_N: gl.constexpr):
    """How many keys of the `block`-th block are seen: those of its span, or all of a block of references."""
    p_spans, count = spans
    width = BLOCK_N
    if block < count:
        width = gl.load(p_spans + 2 * block + 1)
    return width


@gluon.jit
def _compute(
    buffers, out, lengths, spans, GROUP: gl.constexpr,
    SCALE_LOG2: gl.constexpr, SIZE: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """A group of warps: its rows of the block's queries over every block of keys, of `spans` if they are given."""
    queries, q_full, keys, k_full, k_empty, values, v_full, v_empty = buffers
    key_tokens, reference_tokens = lengths
    dtype: gl.constexpr = keys.dtype
    scored: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    summed: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SIZE, 16])
    operand: gl.constexpr = gl.DotOperandLayout(0, summed, 2)
    maximum = gl.full([GROUP_ROWS], -float("inf"), gl.float32, gl.SliceLayout(1, scored))
    total = gl.full([GROUP_ROWS], 0.0, gl.float32, gl.SliceLayout(1, scored))
    acc = gl.full([GROUP_ROWS, SIZE], 0.0, gl.float32, summed)
    zeros = gl.full([GROUP_ROWS, BLOCK_N], 0.0, gl.float32, scored)
    q = queries.index(GROUP).reshape([GROUP_ROWS, SIZE])
    mbarrier.wait(q_full, 0)

    rest, reference_rest = key_tokens % BLOCK_N, reference_tokens % BLOCK_N
    whole = key_tokens // BLOCK_N
    if spans is not None:
        rest, whole = 0, spans[1]
    ragged = (rest > 0).to(gl.int32) + (reference_rest > 0).to(gl.int32)
    columns = gl.expand_dims(gl.arange(0, BLOCK_N, gl.SliceLayout(0, scored)), 0)
    for index in range(ragged):
        width = reference_rest
        if (index == 0) & (rest > 0):
            width = rest
        mbarrier.wait(k_full.index(index % STAGES), index // STAGES & 1)
        k = keys.index(index % STAGES).reshape([BLOCK_N, SIZE])
        scores = warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(k_empty.index(index % STAGES), count=1)
        scores = gl.where(columns < width, scores, -float("inf"))
        p, maximum, total, decay = _softmax(scores, maximum, total, SCALE_LOG2)
        acc = acc * gl.expand_dims(gl.convert_layout(decay, gl.SliceLayout(1, summed)), 1)
        mbarrier.wait(v_full.index(index % STAGES), index // STAGES & 1)
        v = values.index(index % STAGES).reshape([BLOCK_N, SIZE])
        acc = warpgroup_mma(gl.convert_layout(p.to(dtype), operand), v, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(v_empty.index(index % STAGES), count=1)

    last = ragged + whole + reference_tokens // BLOCK_N
    if last > ragged:
        mbarrier.wait(k_full.index(ragged % STAGES), ragged // STAGES & 1)
        k = keys.index(ragged % STAGES).reshape([BLOCK_N, SIZE])
        scores = warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(k_empty.index(ragged % STAGES), count=1)
        if spans is not None:
            scores = gl.where(columns < _width(spans, 0, BLOCK_N), scores, -float("inf"))
        p, maximum, total, decay = _softmax(scores, maximum, total, SCALE_LOG2)
        acc = acc * gl.expand_dims(gl.convert_layout(decay, gl.SliceLayout(1, summed)), 1)
        p = gl.convert_layout(p.to(dtype), operand)
        mbarrier.wait(v_full.index(ragged % STAGES), ragged // STAGES & 1)
        for index in range(ragged + 1, last):
            width = BLOCK_N
            if spans is not None:
                width = _width(spans, index - ragged, BLOCK_N)
            mbarrier.wait(k_full.index(index % STAGES), index // STAGES & 1)
            k = keys.index(index % STAGES).reshape([BLOCK_N, SIZE])
            scores = warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)
            v = values.index((index - 1) % STAGES).reshape([BLOCK_N, SIZE])
            acc = warpgroup_mma(p, v, acc, is_async=True)
            scores = warpgroup_mma_wait(1, deps=[scores])
            mbarrier.arrive(k_empty.index(index % STAGES), count=1)
            if spans is not None:
                scores = gl.where(columns < width, scores, -float("inf"))
            next_p, maximum, total, decay = _softmax(scores, maximum, total, SCALE_LOG2)
            # The values of the next step. Asked for here, where ptxas will not move the softmax past it: without, it
            # does so past the wait below, and nothing would be computed beside the product.
            mbarrier.wait(v_full.index(index % STAGES), index // STAGES & 1)
            acc = warpgroup_mma_wait(0, deps=[acc])
            mbarrier.arrive(v_empty.index((index - 1) % STAGES), count=1)
            acc = acc * gl.expand_dims(gl.convert_layout(decay, gl.SliceLayout(1, summed)), 1)
            p = gl.convert_layout(next_p.to(dtype), operand)
        v = values.index((last - 1) % STAGES).reshape([BLOCK_N, SIZE])
        acc = warpgroup_mma(p, v, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
    acc = acc / gl.expand_dims(gl.convert_layout(total, gl.SliceLayout(1, summed)), 1)
    rings.store(out, acc, summed)


@gluon.jit
def _attend(
    described, p_out, heads, tokens, first, valid, lengths, spans,
    SCALE_LOG2: gl.constexpr, SIZE: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """A program: the `valid` queries from row `first` on."""
    groups: gl.constexpr = BLOCK_M // GROUP_ROWS
    buffers = rings.allocate(described, groups, STAGES)
    rows, out, below = rings.place(p_out, heads, tokens, first, valid, SIZE)
    gl.warp_specialize(
        [
            (_compute, (buffers, out, lengths, spans, 0, SCALE_LOG2, SIZE, BLOCK_N, STAGES)),
            (_compute, (buffers, below, lengths, spans, 1, SCALE_LOG2, SIZE, BLOCK_N, STAGES)),
            (rings.load, (described, buffers, rows, lengths, spans, BLOCK_N, groups, STAGES, False)),
        ],
        [4, 1],
        [240, 24],
    )


@gluon.jit(do_not_specialize=["heads", "tokens", "key_tokens", "reference_tokens"])
def specialized_kernel(
    q_desc, k_desc, v_desc, k_reference_desc, v_reference_desc, p_out, heads, tokens, key_tokens, reference_tokens,
    SCALE_LOG2: gl.constexpr, SIZE: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Descriptors of [B,H,N,D], blocks [1,1,64,D] of queries and [1,1,BLOCK_N,D] of keys and values; out [B,M,H*D]
    contiguous. Grid: (blocks of queries, B*H), four warps; the others are added by the compiler."""
    described = q_desc, (k_desc, v_desc), (k_reference_desc, v_reference_desc)
    first, lengths = gl.program_id(0) * BLOCK_M, (key_tokens, reference_tokens)
    valid = tokens - first
    _attend(described, p_out, heads, tokens, first, valid, lengths, None, SCALE_LOG2, SIZE, BLOCK_M, BLOCK_N, STAGES)


@gluon.jit(do_not_specialize=["heads", "tokens", "reference_tokens", "width"])
def specialized_sparse_kernel(
    q_desc, k_desc, v_desc, k_reference_desc, v_reference_desc, p_spans, p_counts, p_offsets, p_out,
    heads, tokens, reference_tokens, width,
    SCALE_LOG2: gl.constexpr, SIZE: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The same with the lists of `sparse.sparse_kernel`. Grid: (T, B*H)."""
    described = q_desc, (k_desc, v_desc), (k_reference_desc, v_reference_desc)
    block = gl.program_id(0)
    first = gl.load(p_offsets + block)
    valid = gl.load(p_offsets + block + 1) - first
    lengths, spans = (tokens, reference_tokens), (p_spans + block.to(gl.int64) * width * 2, gl.load(p_counts + block))
    _attend(described, p_out, heads, tokens, first, valid, lengths, spans, SCALE_LOG2, SIZE, BLOCK_M, BLOCK_N, STAGES)


def launch(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float, tile: Tile
) -> Tensor:
    """Run the kernel; shapes as `reference.two_segment_attention`, strides such that descriptors can be made."""
    batch, heads, tokens, size = q.shape
    block = [1, 1, tile.block_n, size]
    out = torch.empty(batch, tokens, heads * size, dtype=q.dtype, device=q.device)
    specialized_kernel[(triton.cdiv(tokens, tile.block_m), batch * heads)](
        *rings.describe_segments(q, (k, v), (k_reference, v_reference), block, block), out,
        heads, tokens, k.shape[2], k_reference.shape[2],
        SCALE_LOG2=scale * LOG2_E, SIZE=size, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, STAGES=tile.num_stages,
        num_warps=4,
    )  # fmt: skip
    return out


def launch_sparse(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor,
    spans: Tensor, counts: Tensor, offsets: Tensor, scale: float, tile: Tile,
) -> Tensor:  # fmt: skip
    """Run the kernel over lists; shapes as `reference.sparse_attention`, the lists as `sparse.spans_of` makes them."""
    batch, heads, tokens, size = q.shape
    block = [1, 1, tile.block_n, size]
    out = torch.empty(batch, tokens, heads * size, dtype=q.dtype, device=q.device)
    specialized_sparse_kernel[(len(counts), batch * heads)](
        *rings.describe_segments(q, (k, v), (k_reference, v_reference), block, block), spans, counts, offsets, out,
        heads, tokens, k_reference.shape[2], spans.shape[1],
        SCALE_LOG2=scale * LOG2_E, SIZE=size, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, STAGES=tile.num_stages,
        num_warps=4,
    )  # fmt: skip
    return out
