"""FP8 attention for Hopper in Gluon, as `specialized` for what `fp8.quantize` makes: E4M3 with a scale a block of 128.

Values arrive transposed, [B,H,D,T*128], and in the order in which a thread holds its probabilities, so that both
products read what lies beside each other, as the 8-bit matrix unit wants. Its accumulator is short: each block's
product starts from zero and is added to a float32 sum, which is kept in units of the block's value scale.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from dreamactor.kernels import rings
from dreamactor.kernels.fp8 import Quantized
from dreamactor.kernels.reference import FP8_BLOCK
from dreamactor.kernels.rings import GROUP_ROWS
from dreamactor.kernels.tiles import Tile
from dreamactor.kernels.two_segment import LOG2_E

BLOCK = gl.constexpr(FP8_BLOCK)  # tokens that share a scale, and keys a step


@gluon.jit
def _softmax(scores, k_scale, maximum, total):
    """As in `specialized`, of scores in units of `k_scale`; probabilities are up to 256: see `fp8`."""
    new_maximum = gl.maximum(maximum, gl.max(scores, 1) * k_scale)
    probabilities = gl.exp2(scores * k_scale - gl.expand_dims(new_maximum - 8.0, 1))
    decay = gl.exp2(maximum - new_maximum)
    return probabilities, new_maximum, total * decay + gl.sum(probabilities, 1), decay


@gluon.jit
def _operand(p, dtype: gl.constexpr, layout: gl.constexpr):
    """Probabilities as the second product's left side; each stays with its thread, which the values' order allows."""
    p8 = p.to(dtype).reshape([p.shape[0], p.shape[1] // 16, 2, 4, 2]).permute((0, 1, 3, 2, 4))
    return gl.convert_layout(p8.reshape([p.shape[0], p.shape[1]]), layout)


@gluon.jit
def _scales(scales, block, whole):
    """Scales of the `block`-th whole block of both segments, keys' and values'."""
    p_k, p_v, p_k_reference, p_v_reference = scales
    if block >= whole:
        p_k = p_k_reference - whole
        p_v = p_v_reference - whole
    return gl.load(p_k + block), gl.load(p_v + block)


@gluon.jit
def _step(
    q, buffers, index, query_scale, k_scale, v_scale, columns, width, maximum, total, acc, unit,
    SIZE: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr, layout: gl.constexpr,
):  # fmt: skip
    """One block of keys, of which `width` are real (used with MASKED only), and its values into the running sums."""
    _, _, keys, k_full, k_empty, values, v_full, v_empty = buffers
    dtype: gl.constexpr = keys.dtype
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 4)
    zeros = gl.full([GROUP_ROWS, BLOCK], 0.0, gl.float32, layout)
    mbarrier.wait(k_full.index(index % STAGES), index // STAGES & 1)
    k = keys.index(index % STAGES).reshape([BLOCK, SIZE])
    scores = warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(k_empty.index(index % STAGES), count=1)
    if MASKED:
        scores = gl.where(columns < width, scores, -float("inf"))
    p, maximum, total, decay = _softmax(scores, k_scale * query_scale, maximum, total)
    mbarrier.wait(v_full.index(index % STAGES), index // STAGES & 1)
    v = values.index(index % STAGES).reshape([SIZE, BLOCK])
    product = warpgroup_mma(_operand(p, dtype, operand), v.permute((1, 0)), zeros, use_acc=False, is_async=True)
    product = warpgroup_mma_wait(0, deps=[product])
    mbarrier.arrive(v_empty.index(index % STAGES), count=1)
    return maximum, total, acc * gl.expand_dims(decay * (unit / v_scale), 1) + product, v_scale


@gluon.jit
def _compute(
    buffers, scales, query_scale, out, lengths, GROUP: gl.constexpr, SIZE: gl.constexpr, STAGES: gl.constexpr
):  # fmt: skip
    """A group of warps: its rows of the block's queries over every block of keys."""
    key_tokens, reference_tokens = lengths
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 32])
    maximum = gl.full([GROUP_ROWS], -float("inf"), gl.float32, gl.SliceLayout(1, layout))
    total = gl.full([GROUP_ROWS], 0.0, gl.float32, gl.SliceLayout(1, layout))
    acc = gl.full([GROUP_ROWS, SIZE], 0.0, gl.float32, layout)
    unit = 1.0
    q = buffers[0].index(GROUP).reshape([GROUP_ROWS, SIZE])
    mbarrier.wait(buffers[1], 0)

    whole, reference_whole = key_tokens // BLOCK, reference_tokens // BLOCK
    rest, reference_rest = key_tokens % BLOCK, reference_tokens % BLOCK
    ragged = (rest > 0).to(gl.int32) + (reference_rest > 0).to(gl.int32)
    columns = gl.expand_dims(gl.arange(0, BLOCK, gl.SliceLayout(0, layout)), 0)
    for index in range(ragged):
        width = reference_rest
        p_k_scale, p_v_scale = scales[2] + reference_whole, scales[3] + reference_whole
        if (index == 0) & (rest > 0):
            width = rest
            p_k_scale, p_v_scale = scales[0] + whole, scales[1] + whole
        k_scale, v_scale = gl.load(p_k_scale), gl.load(p_v_scale)
        maximum, total, acc, unit = _step(
            q, buffers, index, query_scale, k_scale, v_scale, columns, width, maximum, total, acc, unit,
            SIZE, STAGES, True, layout,
        )  # fmt: skip
    for index in range(ragged, ragged + whole + reference_whole):
        k_scale, v_scale = _scales(scales, index - ragged, whole)
        maximum, total, acc, unit = _step(
            q, buffers, index, query_scale, k_scale, v_scale, columns, BLOCK, maximum, total, acc, unit,
            SIZE, STAGES, False, layout,
        )  # fmt: skip
    rings.store(out, acc * unit / gl.expand_dims(total, 1), layout)


@gluon.jit(do_not_specialize=["heads", "tokens", "key_tokens", "reference_tokens"])
def specialized_fp8_kernel(
    q_desc, k_desc, v_desc, k_reference_desc, v_reference_desc,
    p_q_scale, p_k_scale, p_v_scale, p_k_reference_scale, p_v_reference_scale,
    p_out, heads, tokens, key_tokens, reference_tokens,
    SCALE_LOG2: gl.constexpr, SIZE: gl.constexpr, BLOCK_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Descriptors of q and k [B,H,N,D], blocks [1,1,64,D] and [1,1,128,D], and of v [B,H,D,T*128], blocks [1,1,D,128];
    scales as `fp8.quantize` makes them; out [B,M,H*D] contiguous. BLOCK_M is 128. Grid: (blocks of queries, B*H)."""
    described = q_desc, (k_desc, v_desc), (k_reference_desc, v_reference_desc)
    groups: gl.constexpr = BLOCK_M // GROUP_ROWS
    index, first, lengths = gl.program_id(1), gl.program_id(0) * BLOCK_M, (key_tokens, reference_tokens)
    buffers = rings.allocate(described, groups, STAGES)
    rows, out, below = rings.place(p_out, heads, tokens, first, tokens - first, SIZE)
    key_blocks, reference_blocks = gl.cdiv(key_tokens, BLOCK), gl.cdiv(reference_tokens, BLOCK)
    scales = (
        p_k_scale + index * key_blocks, p_v_scale + index * key_blocks,
        p_k_reference_scale + index * reference_blocks, p_v_reference_scale + index * reference_blocks,
    )  # fmt: skip
    query_scale = gl.load(p_q_scale + index * gl.cdiv(tokens, BLOCK) + first // BLOCK) * SCALE_LOG2
    gl.warp_specialize(
        [
            (_compute, (buffers, scales, query_scale, out, lengths, 0, SIZE, STAGES)),
            (_compute, (buffers, scales, query_scale, below, lengths, 1, SIZE, STAGES)),
            (rings.load, (described, buffers, rows, lengths, None, BLOCK, groups, STAGES, True)),
        ],
        [4, 1],
        [240, 24],
    )


def launch(
    q: Quantized, k: Quantized, v: Quantized, k_reference: Quantized, v_reference: Quantized,
    scale: float, dtype: torch.dtype, tile: Tile,
) -> Tensor:  # fmt: skip
    """Run the kernel; arguments as `fp8.attend`."""
    batch, heads, tokens, size = q[0].shape
    lengths = k[0].shape[2], k_reference[0].shape[2]
    parts = (q, k, v, k_reference, v_reference)
    segment, references = (k[0], v[0]), (k_reference[0], v_reference[0])
    out = torch.empty(batch, tokens, heads * size, dtype=dtype, device=q[0].device)
    specialized_fp8_kernel[(triton.cdiv(tokens, tile.block_m), batch * heads)](
        *rings.describe_segments(q[0], segment, references, [1, 1, FP8_BLOCK, size], [1, 1, size, FP8_BLOCK]),
        *(part[1] for part in parts), out, heads, tokens, *lengths,
        SCALE_LOG2=scale * LOG2_E, SIZE=size, BLOCK_M=tile.block_m, STAGES=tile.num_stages, num_warps=4,
    )  # fmt: skip
    return out
