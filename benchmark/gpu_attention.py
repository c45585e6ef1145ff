"""The attention kernels' cases on a GPU; FlexAttention, SDPA's backends and torch.compile are timed beside them."""

from __future__ import annotations

import functools
from functools import partial

import torch
from torch import Tensor

from dreamactor.benchmark import gpu_peers
from dreamactor.benchmark.gpu_cases import GPU, Case, Result, chunk, label, make_unusual, normal, sampled_rows
from dreamactor.kernels import dispatch, face, fp8, reference, sparse, tiles, two_segment
from dreamactor.kernels.sliding_tiles import sliding_tiles

Segments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
REFERENCE_TOKENS = 2400


def _apart(batch: int, tokens: int, heads: int, size: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[B,H,N,D] as a strided view of a fused projection, rows `width` elements apart (see `chunk`)."""
    rows: Tensor = chunk(batch, tokens, heads * size, width, dtype).unflatten(-1, (heads, size))
    return rows.transpose(1, 2)


def _lengths(tokens: int, keys: int, references: int) -> str:
    return f"{tokens}+{references}" if keys == tokens else f"{tokens} on {keys}+{references}"


def _attention_rows(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Attention of the sampled rows of the first and last head of the last batch row -> [2,rows,D]."""
    pick = [0, q.shape[1] - 1]
    q, k, v = (tensor[-1, pick].to(dtype) for tensor in (q[:, :, rows], k, v))
    out: Tensor = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], scale=scale)[0]
    return out


def _sampled(result: Result, rows: Tensor, heads: int, size: int) -> Tensor:
    """The same rows of a kernel's [B,M,H*D]."""
    out = result if isinstance(result, Tensor) else result[0]
    picked: Tensor = out[-1, rows].unflatten(-1, (heads, size))[:, [0, heads - 1]]
    return picked.transpose(0, 1)


def _segments(
    batch: int, tokens: int, keys: int, references: int, heads: int, size: int, dtype: torch.dtype, width: int,
    inputs: str,
) -> Segments:  # fmt: skip
    """q, k, v, k_reference, v_reference; v is the strided view that the network has."""
    q, k = normal(batch, heads, tokens, size, dtype=dtype), normal(batch, heads, keys, size, dtype=dtype)
    v = _apart(batch, keys, heads, size, width, dtype)
    k_reference, v_reference = (normal(batch, heads, references, size, dtype=dtype) for _ in range(2))
    make_unusual(inputs, q, (k, k_reference), (v, v_reference))
    return q, k, v, k_reference, v_reference


def attention(
    tokens: int, references: int, heads: int, size: int, dtype: torch.dtype, timed: bool = True, batch: int = 1,
    width: int = 0, keys: int | None = None, inputs: str = "",
) -> Case:  # fmt: skip
    """Kernel 1. As many video keys as tokens unless `keys` says otherwise."""
    keys = tokens if keys is None else keys
    scale = size**-0.5
    segments = _segments(batch, tokens, keys, references, heads, size, dtype, width, inputs)
    q, k, v, k_reference, v_reference = segments
    k[:, :, keys // 3 : keys // 3 + 1] *= 30  # an outlier among the keys

    def joined() -> tuple[Tensor, Tensor, Tensor]:
        return q, torch.cat([k, k_reference], 2), torch.cat([v, v_reference], 2)

    rows = sampled_rows(tokens)
    peers = {name: gpu_peers.sdpa(name, joined, scale) for name in gpu_peers.BACKENDS}
    if timed:
        peers |= {"flex": gpu_peers.flex(joined, scale), "compiled unfused": gpu_peers.unfused(joined, scale)}
    return Case(
        "two_segment", label(f"{_lengths(tokens, keys, references)} D{size}", batch, dtype, inputs, width), size,
        run=lambda tile: two_segment.launch(*segments, scale, tile),
        sample=partial(_sampled, rows=rows, heads=heads, size=size),
        exact=lambda: _attention_rows(*joined(), rows, scale, torch.float64),
        same=lambda: _attention_rows(*joined(), rows, scale, dtype),
        work=4.0 * batch * heads * tokens * (keys + references) * size,
        peers=peers if timed else {}, timed=timed,
    )  # fmt: skip


def fp8_attention(
    tokens: int, references: int, heads: int, timed: bool = True, batch: int = 1, width: int = 0,
    keys: int | None = None, inputs: str = "", dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """Kernel 2, timed with its inputs quantised; against float64 of the quantised inputs, as the goal is put."""
    keys = tokens if keys is None else keys
    size, scale = 128, 128**-0.5
    arch = dispatch.architecture(GPU)
    segments = _segments(batch, tokens, keys, references, heads, size, dtype, width, inputs)
    q, k, v, k_reference, v_reference = segments

    @functools.cache
    def parts() -> tuple[fp8.Quantized, fp8.Quantized, fp8.Quantized, fp8.Quantized, fp8.Quantized]:
        mean = fp8.mean_key(k, k_reference)
        return (  # by a kernel as well, so not before it is known that the device can
            fp8.quantize(q), fp8.quantize(k, mean), fp8.quantize(v, transpose=True),
            fp8.quantize(k_reference, mean), fp8.quantize(v_reference, transpose=True),
        )  # fmt: skip

    rows, pick = sampled_rows(tokens), [0, heads - 1]

    def whole() -> Tensor:
        return fp8.launch(*segments, scale, tiles.tiles("fp8_attention", arch, size)[0], arch)

    def rounded(precision: torch.dtype) -> Tensor:
        chosen = [tensor[:, pick].float() for tensor in segments]
        offset = torch.cat([chosen[1], chosen[3]], 2).double().mean(2, keepdim=True).float()
        chosen[1], chosen[3] = chosen[1] - offset, chosen[3] - offset
        plain = [reference.dequantize_blocks(*reference.quantize_blocks(tensor)) for tensor in chosen]
        known, values = torch.cat([plain[1], plain[3]], 2), torch.cat([plain[2], plain[4]], 2)
        scores = plain[0][:, :, rows].double() @ known.double().transpose(2, 3) * scale
        p = scores.softmax(-1)
        if precision != torch.float64:  # the one rounding the kernel has left: the probabilities'
            p = (256 * p / p.amax(-1, keepdim=True)).to(torch.float8_e4m3fn).double()
            p = p / p.sum(-1, keepdim=True)
        out: Tensor = (p @ values.double())[-1]
        return out

    return Case(
        "fp8_attention", label(f"{_lengths(tokens, keys, references)} D128", batch, dtype, inputs, width), size,
        run=lambda tile: fp8.attend(*parts(), scale, dtype, tile, arch),
        sample=partial(_sampled, rows=rows, heads=heads, size=size),
        exact=lambda: rounded(torch.float64), same=lambda: rounded(torch.float32),
        work=4.0 * batch * heads * tokens * (keys + references) * size,
        peers={"with quantisation": whole} if timed else {},
        absolute=2e-3, timed=timed, goal=tokens >= reference.FP8_BLOCK and not inputs, since=dispatch.FP8_SINCE,
    )  # fmt: skip


def face_attention(
    frames: int, per_frame: int, heads: int, size: int, timed: bool = True, batch: int = 1, width: int = 0,
    inputs: str = "", dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """Kernel 4 against PyTorch's attention with a mask over all frames; queries are strided with `width`."""
    scale, window, group = size**-0.5, 1, 4
    tokens = frames * per_frame
    q = _apart(batch, tokens, heads, size, width, dtype) if width else normal(batch, heads, tokens, size, dtype=dtype)
    k, v = (normal(batch, heads, frames * group, size, dtype=dtype) for _ in range(2))
    make_unusual(inputs, q, [k], [v])
    query_frame = torch.arange(frames, device=q.device).repeat_interleave(per_frame)
    key_frame = torch.arange(frames, device=q.device).repeat_interleave(group)
    mask = (query_frame[:, None] - key_frame).abs() <= window
    rows, pick = sampled_rows(tokens), [0, heads - 1]

    def plain(precision: torch.dtype) -> Tensor:
        chosen = (q[-1:, pick][:, :, rows].to(precision), k[-1:, pick].to(precision), v[-1:, pick].to(precision))
        out: Tensor = torch.nn.functional.scaled_dot_product_attention(*chosen, attn_mask=mask[rows], scale=scale)[0]
        return out

    def arguments() -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v

    blocks = partial(gpu_peers.frame_mask, frames, per_frame, group, window, q.device.type)
    return Case(
        "face_attention", label(f"{frames}x{per_frame} D{size}", batch, dtype, inputs, width), size,
        run=lambda tile: face.launch(q, k, v, frames, window, scale, tile),
        sample=partial(_sampled, rows=rows, heads=heads, size=size),
        exact=lambda: plain(torch.float64), same=lambda: plain(dtype),
        work=2.0 * 2 * q.numel(), unit="gbps",
        peers={
            "masked efficient": gpu_peers.sdpa("efficient", arguments, scale, attn_mask=mask),
            "masked cudnn": gpu_peers.sdpa("cudnn", arguments, scale, attn_mask=mask),
            "masked flex": gpu_peers.flex(arguments, scale, blocks),
            "compiled reference": gpu_peers.compiled(reference.face_attention, q, k, v, frames, window, scale),
        } if timed else {},
        timed=timed,
    )  # fmt: skip


def sparse_attention(
    grid: tuple[int, int, int], heads: int, size: int, timed: bool = True, batch: int = 1,
    references: int = REFERENCE_TOKENS, width: int = 0, inputs: str = "", dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """Kernel 5 over sliding tiles; its work is that of the blocks visited."""
    scale = size**-0.5
    layout = sliding_tiles(grid)
    tokens = grid[0] * grid[1] * grid[2]
    segments = _segments(batch, tokens, tokens, references, heads, size, dtype, width, inputs)
    q, k, v, k_reference, v_reference = segments
    index, offsets = layout.index.to(q.device), layout.offsets.to(q.device)
    sampled = {
        block: torch.arange(*layout.offsets[block : block + 2].tolist(), device=q.device)
        for block in (len(layout.index) // 2, len(layout.index) - 1)
    }

    def plain(precision: torch.dtype) -> Tensor:
        found = []
        for block, rows in sampled.items():
            seen = [slice(*layout.offsets[b : b + 2].tolist()) for b in layout.index[block].tolist() if b >= 0]
            keys = torch.cat([*(k[:, :, part] for part in seen), k_reference], 2)
            values = torch.cat([*(v[:, :, part] for part in seen), v_reference], 2)
            found.append(_attention_rows(q, keys, values, rows, scale, precision))
        return torch.cat(found, 1)

    def joined() -> tuple[Tensor, Tensor, Tensor]:
        return q, torch.cat([k, k_reference], 2), torch.cat([v, v_reference], 2)

    work = 4.0 * batch * heads * size * tokens * (layout.density * tokens + references)
    return Case(
        "sparse_attention", label(f"{grid} density {layout.density:.3f} D{size}", batch, dtype, inputs, width), size,
        run=lambda tile: sparse.launch(*segments, index, offsets, scale, tile),
        sample=partial(_sampled, rows=torch.cat([*sampled.values()]), heads=heads, size=size),
        exact=lambda: plain(torch.float64), same=lambda: plain(dtype),
        work=work, timed=timed,
        peers={"flex": gpu_peers.flex(joined, scale, partial(gpu_peers.block_mask, layout, references, q.device.type))}
        if timed else {},
    )  # fmt: skip
