"""FP8 attention: E4M3 queries, keys and values with a scale for each block of 128 tokens.

The mean key is taken off first (softmax does not see a vector common to all keys; outlier channels mostly are one).
Values are stored transposed, keys within each 16 in the order in which a thread's probabilities lie after the first
product, so that they feed the second without crossing lanes. The tensor core's FP8 accumulator is short, so each
block's product starts from zero and is added in float32; the sum is kept in units of the block's value scale, which
makes that one multiply-add. Video and reference keys lie in one buffer, each from a block boundary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamactor.kernels.softmax import load_rows, store_rows
from dreamactor.kernels.tiles import Tile
from dreamactor.kernels.two_segment import LOG2_E

BLOCK = tl.constexpr(128)  # tokens that share a scale
QUANT_BLOCK = 128
E4M3_MAX = tl.constexpr(448.0)


@triton.jit
def _scale_of(values):
    """The scale that brings the block's largest magnitude to E4M3's; 1 for a block of zeros."""
    largest = tl.max(tl.max(tl.abs(values), 1), 0)
    return tl.where(largest > 0, largest / E4M3_MAX, 1.0)


@triton.jit
def quantize_kernel(
    p_x, p_offset, p_out, p_scale, heads, tokens, out_blocks, first_block, x_batch, x_head, x_row,
    OFFSET: tl.constexpr, TRANSPOSE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """x [B,H,N,D] -> blocks from `first_block` of out [B,H,T*128,D] (or [B,H,D,T*128]) and scale [B,H,T].

    With OFFSET, offset [B,H,D] is subtracted first. Grid: (blocks of x, B*H).
    """
    index = tl.program_id(1).to(tl.int64)
    start = tl.program_id(0) * BLOCK
    rows = tl.arange(0, BLOCK)
    lanes = tl.arange(0, SIZE)
    if TRANSPOSE:  # position 16a + 4t + 2i + j holds key 16a + 8i + 2t + j
        rows = rows // 16 * 16 + rows // 2 % 2 * 8 + rows // 4 % 4 * 2 + rows % 2
    p_x += (index // heads) * x_batch + (index % heads) * x_head + start.to(tl.int64) * x_row
    real = rows[:, None] < tokens - start
    x = tl.load(p_x + rows[:, None] * x_row + lanes[None, :], mask=real, other=0.0).to(tl.float32)
    if OFFSET:
        x = tl.where(real, x - tl.load(p_offset + index * SIZE + lanes)[None, :], 0.0)
    scale = _scale_of(x)
    block = index * out_blocks + first_block + tl.program_id(0)
    tl.store(p_scale + block, scale)
    quantized = (x / scale).to(p_out.dtype.element_ty)
    columns = tl.arange(0, BLOCK)
    if TRANSPOSE:
        length = out_blocks.to(tl.int64) * BLOCK
        p_out += index * length * SIZE + (first_block + tl.program_id(0)) * BLOCK
        tl.store(p_out + lanes[:, None].to(tl.int64) * length + columns[None, :], tl.trans(quantized))
    else:
        tl.store(p_out + block * BLOCK * SIZE + columns[:, None] * SIZE + lanes[None, :], quantized)


@triton.jit
def _attend_segment(
    q, p_k, p_v, p_k_scale, p_v_scale, v_row, tokens, query_scale, unit, maximum, total, acc,
    MASKED: tl.constexpr, IMPRECISE: tl.constexpr, SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Keys of one segment: with MASKED the ragged rest, else the whole blocks. `unit` is the value scale acc is in."""
    whole = tokens // BLOCK_N * BLOCK_N
    first, last = (whole, tokens) if MASKED else (0, whole)
    lanes = tl.arange(0, SIZE)
    keys = tl.arange(0, BLOCK_N)
    for start in tl.range(first, last, BLOCK_N):
        k_scale = tl.load(p_k_scale + start // BLOCK) * query_scale
        v_scale = tl.load(p_v_scale + start // BLOCK)
        k = tl.load(p_k + tl.cast(start, tl.int64) * SIZE + keys[None, :] * SIZE + lanes[:, None])
        scores = tl.dot(q, k)
        if MASKED:
            scores = tl.where(keys[None, :] < tokens - start, scores, -float("inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1) * k_scale)
        p = tl.exp2(scores * k_scale - (new_maximum - 8.0)[:, None])  # up to 256: less falls below E4M3's smallest
        decay = tl.exp2(maximum - new_maximum)
        total = total * decay + tl.sum(p, 1)
        maximum = new_maximum
        v = tl.load(p_v + start + lanes[None, :].to(tl.int64) * v_row + keys[:, None])
        p8 = p.to(v.dtype).reshape(p.shape[0], BLOCK_N // 16, 2, 4, 2).permute(0, 1, 3, 2, 4)
        product = tl.dot(p8.reshape(p.shape[0], BLOCK_N), v, max_num_imprecise_acc=IMPRECISE)
        acc = acc * (decay * (unit / v_scale))[:, None] + product
        unit = v_scale
    return unit, maximum, total, acc


@triton.jit
def fp8_attention_kernel(
    p_q, p_k, p_v, p_q_scale, p_k_scale, p_v_scale, heads, tokens, key_tokens, reference_tokens, p_out,
    SCALE_LOG2: tl.constexpr, IMPRECISE: tl.constexpr,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """q [B,H,Tq*128,D], k [B,H,T*128,D], v [B,H,D,T*128], scales [B,H,Tq], [B,H,T], [B,H,T] -> out [B,M,H*D].

    T = blocks of video keys + blocks of reference keys. The order of arguments is TensorRT's.
    Grid: (blocks of queries, B*H).
    """
    index = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK_M
    key_blocks = tl.cdiv(key_tokens, BLOCK)
    blocks = key_blocks + tl.cdiv(reference_tokens, BLOCK)
    query_blocks = tl.cdiv(tokens, BLOCK)
    q = load_rows(p_q + (index * query_blocks * BLOCK + first) * SIZE, SIZE, BLOCK_M, BLOCK_M, SIZE, False)
    query_scale = tl.load(p_q_scale + index * query_blocks + first // BLOCK) * SCALE_LOG2
    p_k += index * blocks * BLOCK * SIZE
    p_v += index * blocks * BLOCK * SIZE
    p_k_scale += index * blocks
    p_v_scale += index * blocks
    maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, SIZE], tl.float32)
    unit = 1.0
    for segment in tl.static_range(2):
        length = key_tokens if segment == 0 else reference_tokens
        for masked in tl.static_range(2):
            unit, maximum, total, acc = _attend_segment(
                q, p_k, p_v, p_k_scale, p_v_scale, blocks * BLOCK, length, query_scale, unit, maximum, total, acc,
                masked == 1, IMPRECISE, SIZE, BLOCK_N,
            )  # fmt: skip
        p_k += key_blocks.to(tl.int64) * BLOCK * SIZE
        p_v += key_blocks * BLOCK
        p_k_scale += key_blocks
        p_v_scale += key_blocks
    out_row = heads * SIZE
    p_out += ((index // heads) * tokens + first) * out_row + (index % heads) * SIZE
    store_rows(p_out, acc * unit, total, out_row, tokens - first, BLOCK_M, SIZE)


def quantize(
    segments: tuple[Tensor, ...], offset: Tensor | None = None, transpose: bool = False
) -> tuple[Tensor, Tensor]:
    """Quantise [B,H,N,D] segments, each from a block boundary, into one buffer of T blocks.

    offset [B,H,D] float32 is subtracted. -> E4M3 [B,H,T*128,D], or with `transpose` [B,H,D,T*128] in the kernel's key
    order, and float32 scales [B,H,T].
    """
    batch, heads, _, size = segments[0].shape
    counts = [triton.cdiv(segment.shape[2], QUANT_BLOCK) for segment in segments]
    blocks = sum(counts)
    shape = (batch, heads, size, blocks * QUANT_BLOCK) if transpose else (batch, heads, blocks * QUANT_BLOCK, size)
    device = segments[0].device
    out = torch.empty(*shape, dtype=torch.float8_e4m3fn, device=device)
    scale = torch.empty(batch, heads, blocks, dtype=torch.float32, device=device)
    first = 0
    for segment, count in zip(segments, counts, strict=True):
        if count:
            quantize_kernel[(count, batch * heads)](
                segment, scale if offset is None else offset, out, scale, heads, segment.shape[2], blocks, first,
                *segment.stride()[:3], OFFSET=offset is not None, TRANSPOSE=transpose, SIZE=size, num_warps=8,
            )  # fmt: skip
        first += count
    return out, scale


def mean_key(k: Tensor, k_reference: Tensor) -> Tensor:
    """Mean over all keys of both segments, [B,H,D] float32."""
    count = k.shape[2] + k_reference.shape[2]
    return (k.sum(2, dtype=torch.float32) + k_reference.sum(2, dtype=torch.float32)) / count


def attend(
    queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor],
    tokens: int, key_tokens: int, reference_tokens: int, scale: float, dtype: torch.dtype, tile: Tile, arch: int = 90,
) -> Tensor:  # fmt: skip
    """Attention of quantised (tensor, scale) pairs as `quantize` makes them -> [B,tokens,H*D] of `dtype`."""
    batch, heads, _, size = queries[0].shape
    out = torch.empty(batch, tokens, heads * size, dtype=dtype, device=queries[0].device)
    fp8_attention_kernel[(triton.cdiv(tokens, tile.block_m), batch * heads)](
        queries[0], keys[0], values[0], queries[1], keys[1], values[1],
        heads, tokens, key_tokens, reference_tokens, out,
        SCALE_LOG2=scale * LOG2_E, IMPRECISE=imprecise(arch, tile),
        SIZE=size, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out


def imprecise(arch: int, tile: Tile) -> int | None:
    """tl.dot's limit on the short accumulator. Off Hopper it only keeps the compiler from merging the sum back in."""
    return None if arch == 90 else tile.block_n


def launch(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float, tile: Tile, arch: int = 90
) -> Tensor:
    """Quantise and attend; shapes as `reference.two_segment_attention`, the last dimension of each of stride 1."""
    keys = quantize((k, k_reference), mean_key(k, k_reference))
    values = quantize((v, v_reference), transpose=True)
    lengths = (q.shape[2], k.shape[2], k_reference.shape[2])
    return attend(quantize((q,)), keys, values, *lengths, scale, q.dtype, tile, arch)
