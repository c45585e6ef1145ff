"""FP8 attention: E4M3 queries, keys and values with a scale for each block of 128 tokens.

The mean key is taken off first (softmax does not see a vector common to all keys; outlier channels mostly are one).
Values are stored transposed, keys within each 16 in the order in which a thread's probabilities lie after the first
product, so that they feed the second without crossing lanes. The tensor core's FP8 accumulator is short, so each
block's product starts from zero and is added in float32; the sum is kept in units of the block's value scale, which
makes that one multiply-add.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamactor.kernels.reference import FP8_BLOCK, FP8_LEAST, FP8_MAX
from dreamactor.kernels.softmax import load_columns, load_rows, store_rows
from dreamactor.kernels.tiles import Tile
from dreamactor.kernels.two_segment import LOG2_E

BLOCK, LARGEST, LEAST = tl.constexpr(FP8_BLOCK), tl.constexpr(FP8_MAX), tl.constexpr(FP8_LEAST)


@triton.jit
def _scale_of(values):
    """The scale that brings the block's largest magnitude to E4M3's; 1 for a block of as good as zeros."""
    largest = tl.max(tl.max(tl.abs(values), 1), 0)
    return tl.where(largest > LEAST, largest / LARGEST, 1.0)


@triton.jit
def _quantize_block(
    p_x, p_offset, p_out, p_scale, index, tokens, x_row, OFFSET: tl.constexpr, TRANSPOSE: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """One block of one head: `p_x` is at the head's first row, the rest at the tensor's start; `index` is the head."""
    start = tl.program_id(0) * BLOCK
    blocks = tl.cdiv(tokens, BLOCK)
    columns = tl.arange(0, BLOCK)
    lanes = tl.arange(0, SIZE)
    rows = columns
    if TRANSPOSE:  # position 16a + 4t + 2i + j holds key 16a + 8i + 2t + j
        rows = columns // 16 * 16 + columns // 2 % 2 * 8 + columns // 4 % 4 * 2 + columns % 2
    p_x += start.to(tl.int64) * x_row
    real = rows[:, None] < tokens - start
    x = tl.load(p_x + rows[:, None] * x_row + lanes[None, :], mask=real, other=0.0).to(tl.float32)
    if OFFSET:
        x = tl.where(real, x - tl.load(p_offset + index * SIZE + lanes)[None, :], 0.0)
    scale = _scale_of(x)
    tl.store(p_scale + index * blocks + tl.program_id(0), scale)
    quantized = (x * (1.0 / scale)).to(p_out.dtype.element_ty)
    if TRANSPOSE:
        length = tl.cast(blocks, tl.int64) * BLOCK
        p_out += index * length * SIZE + start
        tl.store(p_out + lanes[:, None].to(tl.int64) * length + columns[None, :], tl.trans(quantized))
    else:
        p_out += (index * tokens + start) * SIZE
        tl.store(p_out + columns[:, None] * SIZE + lanes[None, :], quantized, mask=real)


@triton.jit(do_not_specialize=["heads", "tokens"])
def quantize_kernel(
    p_x, p_offset, p_out, p_scale, heads, tokens, x_batch, x_head, x_row,
    OFFSET: tl.constexpr, TRANSPOSE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """x [B,H,N,D] of any strides -> out [B,H,N,D], or with TRANSPOSE [B,H,D,T*128], and scale [B,H,T].

    With OFFSET, offset [B,H,D] is subtracted first. Grid: (T, B*H).
    """
    index = tl.program_id(1).to(tl.int64)
    p_x += (index // heads) * x_batch + (index % heads) * x_head
    _quantize_block(p_x, p_offset, p_out, p_scale, index, tokens, x_row, OFFSET, TRANSPOSE, SIZE)


@triton.jit
def quantize_plugin(p_x, p_offset, tokens, p_out, p_scale, TRANSPOSE: tl.constexpr, SIZE: tl.constexpr):
    """The same for TensorRT: contiguous, the offset always given; T is 1 where there are no tokens."""
    index = tl.program_id(1).to(tl.int64)
    p_x += index * tokens * SIZE
    if tokens > 0:
        _quantize_block(p_x, p_offset, p_out, p_scale, index, tokens, SIZE, True, TRANSPOSE, SIZE)


@triton.jit
def _attend_segment(
    q, p_k, p_v, p_k_scale, p_v_scale, tokens, query_scale, unit, maximum, total, acc,
    MASKED: tl.constexpr, IMPRECISE: tl.constexpr, SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Keys of one segment: with MASKED the ragged rest, else the whole blocks. `unit` is the value scale acc is in."""
    whole = tokens // BLOCK_N * BLOCK_N
    first, last = (whole, tokens) if MASKED else (0, whole)
    lanes = tl.arange(0, SIZE)
    keys = tl.arange(0, BLOCK_N)
    v_row = tl.cast(tl.cdiv(tokens, BLOCK), tl.int64) * BLOCK
    for start in tl.range(first, last, BLOCK_N):
        k_scale = tl.load(p_k_scale + start // BLOCK) * query_scale
        v_scale = tl.load(p_v_scale + start // BLOCK)
        k = load_columns(p_k + tl.cast(start, tl.int64) * SIZE, SIZE, tokens - start, BLOCK_N, SIZE, MASKED)
        scores = tl.dot(q, k)
        if MASKED:
            scores = tl.where(keys[None, :] < tokens - start, scores, -float("inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1) * k_scale)
        p = tl.exp2(scores * k_scale - (new_maximum - 8.0)[:, None])  # up to 256: less falls below E4M3's smallest
        decay = tl.exp2(maximum - new_maximum)
        total = total * decay + tl.sum(p, 1)
        maximum = new_maximum
        v = tl.load(p_v + start + lanes[None, :] * v_row + keys[:, None])
        p8 = p.to(v.dtype).reshape(p.shape[0], BLOCK_N // 16, 2, 4, 2).permute(0, 1, 3, 2, 4)
        product = tl.dot(p8.reshape(p.shape[0], BLOCK_N), v, max_num_imprecise_acc=IMPRECISE)
        acc = acc * (decay * (unit / v_scale))[:, None] + product
        unit = v_scale
    return unit, maximum, total, acc


@triton.jit(do_not_specialize=["heads", "tokens", "key_tokens", "reference_tokens"])
def fp8_attention_kernel(
    p_q, p_k, p_v, p_k_reference, p_v_reference,
    p_q_scale, p_k_scale, p_v_scale, p_k_reference_scale, p_v_reference_scale,
    heads, tokens, key_tokens, reference_tokens, p_out,
    SCALE_LOG2: tl.constexpr, IMPRECISE: tl.constexpr,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """q [B,H,M,D], k [B,H,N,D], v [B,H,D,T*128] and the references' as `quantize` makes them -> out [B,M,H*D].

    The order of arguments is TensorRT's. Grid: (blocks of queries, B*H).
    """
    index = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK_M
    valid = tokens - first
    key_blocks, reference_blocks = tl.cdiv(key_tokens, BLOCK), tl.cdiv(reference_tokens, BLOCK)
    q = load_rows(p_q + (index * tokens + first) * SIZE, SIZE, valid, BLOCK_M, SIZE, True)
    query_scale = tl.load(p_q_scale + index * tl.cdiv(tokens, BLOCK) + first // BLOCK) * SCALE_LOG2
    p_k += index * key_tokens * SIZE
    p_v += index * key_blocks * BLOCK * SIZE
    p_k_reference += index * reference_tokens * SIZE
    p_v_reference += index * reference_blocks * BLOCK * SIZE
    p_k_scale += index * key_blocks
    p_v_scale += index * key_blocks
    p_k_reference_scale += index * reference_blocks
    p_v_reference_scale += index * reference_blocks
    maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, SIZE], tl.float32)
    unit = 1.0
    for masked in tl.static_range(2):
        unit, maximum, total, acc = _attend_segment(
            q, p_k, p_v, p_k_scale, p_v_scale, key_tokens, query_scale, unit, maximum, total, acc,
            masked == 1, IMPRECISE, SIZE, BLOCK_N,
        )  # fmt: skip
    for masked in tl.static_range(2):
        unit, maximum, total, acc = _attend_segment(
            q, p_k_reference, p_v_reference, p_k_reference_scale, p_v_reference_scale, reference_tokens,
            query_scale, unit, maximum, total, acc, masked == 1, IMPRECISE, SIZE, BLOCK_N,
        )  # fmt: skip
    out_row = heads * SIZE
    p_out += ((index // heads) * tokens + first) * out_row + (index % heads) * SIZE
    store_rows(p_out, acc * unit, total, out_row, valid, BLOCK_M, SIZE)


def quantize(x: Tensor, offset: Tensor | None = None, transpose: bool = False) -> tuple[Tensor, Tensor]:
    """E4M3 with one scale for each 128 tokens; offset [B,H,D] float32 is subtracted first.

    x [B,H,N,D] of last stride 1 -> E4M3 [B,H,N,D], or with `transpose` [B,H,D,T*128] in the kernel's key order and
    padded with zeros, and float32 scales [B,H,T], T = ceil(N/128).
    """
    batch, heads, tokens, size = x.shape
    blocks = triton.cdiv(tokens, FP8_BLOCK)
    shape = (batch, heads, size, blocks * FP8_BLOCK) if transpose else (batch, heads, tokens, size)
    out = torch.empty(*shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(batch, heads, blocks, dtype=torch.float32, device=x.device)
    if blocks:
        quantize_kernel[(blocks, batch * heads)](
            x, scale if offset is None else offset, out, scale, heads, tokens, *x.stride()[:3],
            OFFSET=offset is not None, TRANSPOSE=transpose, SIZE=size, num_warps=8,
        )  # fmt: skip
    return out, scale


def mean_key(k: Tensor, k_reference: Tensor) -> Tensor:
    """Mean over all keys of both segments, [B,H,D] float32."""
    count = k.shape[2] + k_reference.shape[2]
    return (k.sum(2, dtype=torch.float32) + k_reference.sum(2, dtype=torch.float32)) / count


Quantized = tuple[Tensor, Tensor]


def attend(
    q: Quantized, k: Quantized, v: Quantized, k_reference: Quantized, v_reference: Quantized,
    scale: float, dtype: torch.dtype, tile: Tile, arch: int = 90,
) -> Tensor:  # fmt: skip
    """Attention of (tensor, scales) pairs as `quantize` makes them, values transposed -> [B,M,H*D] of `dtype`."""
    if tile.specialized:
        from dreamactor.kernels import specialized_fp8

        return specialized_fp8.launch(q, k, v, k_reference, v_reference, scale, dtype, tile)
    batch, heads, tokens, size = q[0].shape
    parts = (q, k, v, k_reference, v_reference)
    out = torch.empty(batch, tokens, heads * size, dtype=dtype, device=q[0].device)
    fp8_attention_kernel[(triton.cdiv(tokens, tile.block_m), batch * heads)](
        *(part[0] for part in parts), *(part[1] for part in parts),
        heads, tokens, k[0].shape[2], k_reference[0].shape[2], out,
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
    mean = mean_key(k, k_reference)
    keys, reference_keys = quantize(k, mean), quantize(k_reference, mean)
    values, reference_values = quantize(v, transpose=True), quantize(v_reference, transpose=True)
    return attend(quantize(q), keys, values, reference_keys, reference_values, scale, q.dtype, tile, arch)
