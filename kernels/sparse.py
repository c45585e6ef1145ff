"""Block-sparse attention: each block of queries attends to the key blocks of its list, and to all reference keys."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamactor.kernels import sliding_tiles
from dreamactor.kernels.softmax import attend_segment, load_columns, load_rows, softmax_update, store_rows
from dreamactor.kernels.tiles import Tile
from dreamactor.kernels.two_segment import LOG2_E


@triton.jit(do_not_specialize=["heads", "tokens", "reference_tokens", "width"])
def sparse_kernel(
    p_q, p_k, p_v, p_k_reference, p_v_reference, p_spans, p_counts, p_offsets, p_out,
    heads, tokens, reference_tokens, width,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    k_reference_batch, k_reference_head, k_reference_row, v_reference_batch, v_reference_head, v_reference_row,
    SCALE_LOG2: tl.constexpr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """spans [T,width,2] int32: first row and length of each key block seen; counts [T]: how many; offsets [T+1].

    Any strides with the last one 1; out [B,M,H*D]. A span is at most BLOCK_N long, a query block at most BLOCK_M.
    Grid: (T, B*H).
    """
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    block = tl.program_id(0)
    first = tl.load(p_offsets + block)
    valid = tl.load(p_offsets + block + 1) - first
    first = first.to(tl.int64)
    q = load_rows(p_q + batch * q_batch + head * q_head + first * q_row, q_row, valid, BLOCK_M, SIZE, True)
    p_k += batch * k_batch + head * k_head
    p_v += batch * v_batch + head * v_head
    p_spans += block.to(tl.int64) * width * 2
    maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, SIZE], tl.float32)
    for i in tl.range(0, tl.load(p_counts + block)):
        start = tl.load(p_spans + i * 2).to(tl.int64)
        length = tl.load(p_spans + i * 2 + 1)
        k = load_columns(p_k + start * k_row, k_row, length, BLOCK_N, SIZE, True)
        scores = tl.dot(q, k)
        if length < BLOCK_N:
            scores = tl.where(tl.arange(0, BLOCK_N)[None, :] < length, scores, -float("inf"))
        p, maximum, total, decay = softmax_update(scores, maximum, total, SCALE_LOG2, BLOCK_N, BLOCK_N, False)
        v = load_rows(p_v + start * v_row, v_row, length, BLOCK_N, SIZE, True)
        acc = tl.dot(p.to(v.dtype), v, acc * decay[:, None])
    p_k_reference += batch * k_reference_batch + head * k_reference_head
    p_v_reference += batch * v_reference_batch + head * v_reference_head
    maximum, total, acc = attend_segment(
        q, p_k_reference, p_v_reference, k_reference_row, v_reference_row, reference_tokens,
        maximum, total, acc, SCALE_LOG2, BLOCK_N, SIZE,
    )  # fmt: skip
    out_row = heads * SIZE
    p_out += (batch * tokens + first) * out_row + head * SIZE
    store_rows(p_out, acc, total, out_row, valid, BLOCK_M, SIZE)


def spans_of(block_index: Tensor, block_offsets: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """(spans [T,width,2], counts [T]) of a layout, blocks longer than `longest` cut in pieces; int32."""
    lengths = block_offsets.diff()
    seen = block_index >= 0
    known = block_index.clamp(min=0).long()
    pieces = triton.cdiv(sliding_tiles.BLOCK, longest)
    cut = torch.arange(pieces, device=block_index.device) * longest
    starts = block_offsets[:-1][known][:, :, None] + cut
    sizes = (torch.where(seen, lengths[known], 0)[:, :, None] - cut).clamp(0, longest)
    starts, sizes = starts.flatten(1), sizes.flatten(1)
    order = (sizes == 0).int().argsort(dim=1, stable=True)  # what is read first, nothing last
    spans = torch.stack([starts.gather(1, order), sizes.gather(1, order)], 2)
    return spans.int().contiguous(), (sizes > 0).sum(1).int()


def launch(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor,
    block_index: Tensor, block_offsets: Tensor, scale: float, tile: Tile,
) -> Tensor:  # fmt: skip
    """Run the kernel; shapes as `reference.sparse_attention`. `tile.block_m` is 128, the most a block holds."""
    batch, heads, tokens, size = q.shape
    spans, counts = spans_of(block_index, block_offsets, tile.block_n)
    if tile.specialized:
        from dreamactor.kernels import specialized

        return specialized.launch_sparse(q, k, v, k_reference, v_reference, spans, counts, block_offsets, scale, tile)
    out = torch.empty(batch, tokens, heads * size, dtype=q.dtype, device=q.device)
    tensors = (q, k, v, k_reference, v_reference)
    strides = [stride for tensor in tensors for stride in tensor.stride()[:3]]
    sparse_kernel[(block_index.shape[0], batch * heads)](
        *tensors, spans, counts, block_offsets, out, heads, tokens, k_reference.shape[2], spans.shape[1], *strides,
        SCALE_LOG2=scale * LOG2_E, SIZE=size, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out
