"""The kernels on a GPU: what each case computes, how it is checked, and what it is timed against.

A check compares a sample of rows with float64 and holds the kernel to twice the error of PyTorch's own attention in the
same precision. Outputs start as NaN and inputs are fresh random numbers, of other scale than one here and there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dreamactor.benchmark import gpu_peers
from dreamactor.kernels import dispatch, face, fp8, modulate, reference, rotary, sparse, tiles, two_segment
from dreamactor.kernels.sliding_tiles import sliding_tiles
from dreamactor.kernels.tiles import Tile

Result = Tensor | tuple[Tensor, ...]
DEVICE = "cuda"
SAMPLE = 192  # rows compared with float64
REFERENCE_TOKENS = 2400


@dataclass
class Case:
    """One kernel at one shape.

    `run` takes a tile; `exact` and `same` give the sampled rows in float64 and by PyTorch in the same precision,
    `sample` picks those rows from the kernel's result. `work` is FLOP (attention) or bytes (the rest). Runs from
    architecture `since` on; where it is not `tuned` the tile makes no difference.
    """

    kernel: str
    label: str
    size: int
    run: Callable[[Tile], Result]
    sample: Callable[[Result], Tensor]
    exact: Callable[[], Tensor]
    same: Callable[[], Tensor]
    work: float
    unit: str = "tflops"
    peers: dict[str, gpu_peers.Peer] = field(default_factory=dict)
    absolute: float = 2e-4
    timed: bool = True
    tuned: bool = True
    since: int = 80

    def table_size(self) -> int:
        """The tile table's size for this case: the head size, or the class of channels."""
        known = tiles.sizes(self.kernel, dispatch.architecture(torch.device(DEVICE, 0)))
        return self.size if self.kernel != "modulate_norm" else min((n for n in known if n >= self.size), default=0)

    def candidates(self) -> tuple[Tile, ...]:
        """The tiles of this device's table; none below architecture `since`."""
        arch = dispatch.architecture(torch.device(DEVICE, 0))
        return tiles.tiles(self.kernel, arch, self.table_size()) if arch >= self.since else ()


def _random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=torch.float32).to(dtype)


def _heads(batch: int, tokens: int, heads: int, size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[B,H,N,D] contiguous, without a float32 copy of the whole."""
    return torch.randn(batch, heads, tokens, size, device=DEVICE, dtype=dtype)


def _rows(tokens: int) -> Tensor:
    """Sampled rows: the first, the last, and random ones."""
    chosen = torch.randint(0, tokens, (SAMPLE - 2,))
    rows: Tensor = torch.cat([torch.tensor([0, tokens - 1]), chosen]).unique()
    return rows.to(DEVICE)


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


def attention(tokens: int, references: int, heads: int, size: int, dtype: torch.dtype, timed: bool = True) -> Case:
    """Kernel 1. Values are the strided view that the network has."""
    scale = size**-0.5
    q, k = _heads(1, tokens, heads, size, dtype), _heads(1, tokens, heads, size, dtype)
    v = torch.randn(1, tokens, 3 * heads * size, device=DEVICE, dtype=dtype)[..., -heads * size :]
    v = v.unflatten(-1, (heads, size)).transpose(1, 2)
    k_reference, v_reference = _heads(1, references, heads, size, dtype), _heads(1, references, heads, size, dtype)
    k[:, :, tokens // 3] *= 30  # an outlier among the keys

    def joined() -> tuple[Tensor, Tensor, Tensor]:
        return q, torch.cat([k, k_reference], 2), torch.cat([v, v_reference], 2)

    rows = _rows(tokens)
    peers = {name: gpu_peers.sdpa(name, joined, scale) for name in gpu_peers.BACKENDS}
    if timed:
        peers |= {"flex": gpu_peers.flex(joined, scale), "compiled unfused": gpu_peers.unfused(joined, scale)}
    return Case(
        "two_segment", f"{tokens}+{references} D{size} {str(dtype)[6:]}", size,
        run=lambda tile: two_segment.launch(q, k, v, k_reference, v_reference, scale, tile),
        sample=partial(_sampled, rows=rows, heads=heads, size=size),
        exact=lambda: _attention_rows(*joined(), rows, scale, torch.float64),
        same=lambda: _attention_rows(*joined(), rows, scale, dtype),
        work=4.0 * heads * tokens * (tokens + references) * size,
        peers=peers if timed else {}, timed=timed,
    )  # fmt: skip


def fp8_attention(tokens: int, references: int, heads: int, timed: bool = True) -> Case:
    """Kernel 2, timed with its inputs quantised; against float64 of the quantised inputs, as the goal is put."""
    size, scale = 128, 128**-0.5
    arch = dispatch.architecture(torch.device(DEVICE, 0))
    lengths = (tokens, tokens, tokens, references, references)
    q, k, v, k_reference, v_reference = (_heads(1, n, heads, size) for n in lengths)
    mean = fp8.mean_key(k, k_reference)
    parts = (
        fp8.quantize(q), fp8.quantize(k, mean), fp8.quantize(v, transpose=True),
        fp8.quantize(k_reference, mean), fp8.quantize(v_reference, transpose=True),
    )  # fmt: skip
    rows, pick = _rows(tokens), [0, heads - 1]

    def whole() -> Tensor:
        return fp8.launch(q, k, v, k_reference, v_reference, scale, tiles.choose("fp8_attention", arch, size), arch)

    def rounded(dtype: torch.dtype) -> Tensor:
        chosen = [tensor[:, pick] for tensor in (q, k, v, k_reference, v_reference)]
        offset = mean[:, pick][:, :, None]
        chosen[1], chosen[3] = chosen[1] - offset, chosen[3] - offset
        plain = [reference.dequantize_blocks(*reference.quantize_blocks(tensor)) for tensor in chosen]
        keys, values = torch.cat([plain[1], plain[3]], 2), torch.cat([plain[2], plain[4]], 2)
        scores = plain[0][:, :, rows].double() @ keys.double().transpose(2, 3) * scale
        p = scores.softmax(-1)
        if dtype != torch.float64:  # the one rounding the kernel has left: the probabilities'
            p = (256 * p / p.amax(-1, keepdim=True)).to(torch.float8_e4m3fn).double()
            p = p / p.sum(-1, keepdim=True)
        out: Tensor = (p @ values.double())[0]
        return out

    return Case(
        "fp8_attention", f"{tokens}+{references} D128", size,
        run=lambda tile: fp8.attend(*parts, scale, torch.bfloat16, tile, arch),
        sample=partial(_sampled, rows=rows, heads=heads, size=size),
        exact=lambda: rounded(torch.float64), same=lambda: rounded(torch.float32),
        work=4.0 * heads * tokens * (tokens + references) * size,
        peers={"with quantisation": whole} if timed else {},
        absolute=2e-3, timed=timed,
    )  # fmt: skip


def face_attention(frames: int, per_frame: int, heads: int, size: int, timed: bool = True) -> Case:
    """Kernel 4 against SDPA with a mask over all frames."""
    scale, window, group = size**-0.5, 1, 4
    q = _heads(1, frames * per_frame, heads, size)
    k, v = _heads(1, frames * group, heads, size), _heads(1, frames * group, heads, size)
    query_frame = torch.arange(frames, device=DEVICE).repeat_interleave(per_frame)
    key_frame = torch.arange(frames, device=DEVICE).repeat_interleave(group)
    mask = (query_frame[:, None] - key_frame).abs() <= window
    rows, pick = _rows(frames * per_frame), [0, heads - 1]

    def plain(dtype: torch.dtype) -> Tensor:
        chosen = (q[:, pick][:, :, rows].to(dtype), k[:, pick].to(dtype), v[:, pick].to(dtype))
        out: Tensor = torch.nn.functional.scaled_dot_product_attention(*chosen, attn_mask=mask[rows], scale=scale)[0]
        return out

    def arguments() -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v

    return Case(
        "face_attention", f"{frames}x{per_frame} D{size}", size,
        run=lambda tile: face.launch(q, k, v, frames, window, scale, tile),
        sample=partial(_sampled, rows=rows, heads=heads, size=size),
        exact=lambda: plain(torch.float64), same=lambda: plain(torch.bfloat16),
        work=2.0 * 2 * q.numel(), unit="gbps",
        peers={
            "masked efficient": gpu_peers.sdpa("efficient", arguments, scale, attn_mask=mask),
            "compiled reference": gpu_peers.compiled(reference.face_attention, q, k, v, frames, window, scale),
        } if timed else {},
        timed=timed,
    )  # fmt: skip


def sparse_attention(grid: tuple[int, int, int], heads: int, size: int, timed: bool = True) -> Case:
    """Kernel 5 over sliding tiles; its work is that of the blocks visited."""
    scale = size**-0.5
    layout = sliding_tiles(grid)
    tokens = grid[0] * grid[1] * grid[2]
    q, k, v = (_heads(1, tokens, heads, size) for _ in range(3))
    k_reference, v_reference = (_heads(1, REFERENCE_TOKENS, heads, size) for _ in range(2))
    index, offsets = layout.index.to(DEVICE), layout.offsets.to(DEVICE)
    block = layout.index.shape[0] // 2
    first, last = int(layout.offsets[block]), int(layout.offsets[block + 1])
    seen = [slice(*layout.offsets[b : b + 2].tolist()) for b in layout.index[block].tolist() if b >= 0]
    rows = torch.arange(first, last, device=DEVICE)

    def plain(dtype: torch.dtype) -> Tensor:
        keys = torch.cat([*(k[:, :, part] for part in seen), k_reference], 2)
        values = torch.cat([*(v[:, :, part] for part in seen), v_reference], 2)
        return _attention_rows(q, keys, values, rows, scale, dtype)

    work = 4.0 * heads * size * tokens * (layout.density * tokens + REFERENCE_TOKENS)
    return Case(
        "sparse_attention", f"{grid} density {layout.density:.3f} D{size}", size,
        run=lambda tile: sparse.launch(q, k, v, k_reference, v_reference, index, offsets, scale, tile),
        sample=partial(_sampled, rows=rows, heads=heads, size=size),
        exact=lambda: plain(torch.float64), same=lambda: plain(torch.bfloat16),
        work=work, timed=timed,
    )  # fmt: skip


def norm_rope(tokens: int, heads: int, size: int, timed: bool = True) -> Case:
    """Kernel 3 on a chunk of a fused projection."""
    x = torch.randn(1, tokens, 3 * heads * size, device=DEVICE, dtype=torch.bfloat16).chunk(3, -1)[0]
    weight = _random(size)
    angles = torch.randn(tokens, size // 2, device=DEVICE)
    cos, sin = angles.cos(), angles.sin()
    rows = _rows(tokens)
    peers = {"compiled reference": gpu_peers.compiled(reference.norm_rope, x, weight, cos, sin, heads)} if timed else {}

    def plain(dtype: torch.dtype) -> Tensor:
        chosen = (x[:, rows].to(dtype), weight.to(dtype), cos[rows].to(dtype), sin[rows].to(dtype))
        return reference.norm_rope(*chosen, heads)

    def sample(result: Result) -> Tensor:
        assert isinstance(result, Tensor)
        return result[:, :, rows]

    return Case(
        "norm_rope", f"{tokens}x{heads} D{size}", size,
        run=lambda tile: rotary.launch(x, weight, cos, sin, heads, 1e-6, tile), sample=sample,
        exact=lambda: plain(torch.float64), same=lambda: plain(torch.bfloat16),
        work=2.0 * 2 * x.numel() + 4.0 * 2 * cos.numel(), unit="gbps",
        peers=peers,
        absolute=1e-5, timed=timed,
    )  # fmt: skip


def norm_rope_fp8(tokens: int, heads: int, size: int, timed: bool = True) -> Case:
    """Kernel 3 to E4M3 with scales; one tile, so it is run once for each of the table's."""
    x = torch.randn(1, tokens, 3 * heads * size, device=DEVICE, dtype=torch.bfloat16).chunk(3, -1)[0]
    weight, angles = _random(size), torch.randn(tokens, size // 2, device=DEVICE)
    cos, sin = angles.cos(), angles.sin()
    last = slice((tokens - 1) // reference.FP8_BLOCK * reference.FP8_BLOCK, tokens)  # the last block alone

    def plain(dtype: torch.dtype) -> Tensor:
        chosen = (x[:, last].to(dtype), weight.to(dtype), cos[last].to(dtype), sin[last].to(dtype))
        rotated = reference.norm_rope(*chosen, heads)
        return rotated if dtype == torch.float64 else reference.dequantize_blocks(*reference.quantize_blocks(rotated))

    def sample(result: Result) -> Tensor:
        assert isinstance(result, tuple)
        return reference.dequantize_blocks(result[0][:, :, last], result[1][:, :, -1:])

    return Case(
        "norm_rope", f"to E4M3 {tokens}x{heads} D{size}", size,
        run=lambda tile: rotary.launch_fp8(x, weight, cos, sin, heads, 1e-6), sample=sample,
        exact=lambda: plain(torch.float64), same=lambda: plain(torch.bfloat16),
        work=3.0 * x.numel() + 4.0 * 2 * cos.numel(), unit="gbps", timed=timed, tuned=False, since=89,
    )  # fmt: skip


def modulate_norm(frames: int, per_frame: int, channels: int, timed: bool = True) -> Case:
    """Kernel 6 with its gate: two reads and two writes of the rows."""
    x, branch = (torch.randn(1, frames * per_frame, channels, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    shift, scale, gate = _random(1, frames, 9, channels).unbind(2)[:3]
    peers = (
        {"compiled reference": gpu_peers.compiled(reference.modulate_norm, x, shift, scale, branch, gate)}
        if timed
        else {}
    )

    def plain(dtype: torch.dtype) -> Tensor:
        last = (part[:, -1:] for part in (shift, scale))
        chosen = (x[:, -per_frame:], *last, branch[:, -per_frame:], gate[:, -1:])
        wide: list[Any] = [tensor.to(dtype) for tensor in chosen]
        return torch.cat(reference.modulate_norm(*wide))

    def sample(result: Result) -> Tensor:
        assert isinstance(result, tuple)
        return torch.cat([part[:, -per_frame:] for part in result])

    def run(tile: Tile) -> tuple[Tensor, Tensor]:
        residual, normed = modulate.launch(x, shift, scale, branch, gate, 1e-6, tile)
        assert residual is not None
        return residual, normed

    return Case(
        "modulate_norm", f"{frames}x{per_frame}x{channels}", channels, run=run, sample=sample,
        exact=lambda: plain(torch.float64), same=lambda: plain(torch.bfloat16),
        work=2.0 * 4 * x.numel(), unit="gbps",
        peers=peers,
        absolute=1e-5, timed=timed,
    )  # fmt: skip


bf16, fp16 = torch.bfloat16, torch.float16
Make = Callable[[], Case]
TIMED: dict[str, list[Make]] = {
    "two_segment": [partial(attention, n, REFERENCE_TOKENS, 32, d, bf16) for n in (16384, 48000) for d in (128, 64)],
    "fp8_attention": [partial(fp8_attention, n, REFERENCE_TOKENS, 32) for n in (16384, 48000)],
    "norm_rope": [
        partial(norm_rope, 48000, 32, 128),
        partial(norm_rope, 48000, 32, 64),
        partial(norm_rope_fp8, 48000, 32, 128),
    ],
    "face_attention": [partial(face_attention, 19, 2400, 32, 128)],
    "sparse_attention": [partial(sparse_attention, (19, 40, 60), 32, 128)],
    "modulate_norm": [partial(modulate_norm, 19, 2400, 4096)],
}
_LENGTHS = ((1000, 0, bf16), (1, 7, fp16), (4097, 2400, fp16), (45600, 4800, bf16), (160000, 2400, bf16))
_GRIDS = (((5, 11, 13), 64), ((5, 11, 13), 128), ((67, 40, 60), 128))
CHECKED: dict[str, list[Make]] = {
    "two_segment": [partial(attention, n, r, 2, d, dtype, False) for d in (128, 64) for n, r, dtype in _LENGTHS],
    "fp8_attention": [partial(fp8_attention, n, r, 2, False) for n, r in ((1000, 0), (4097, 130), (160000, 2400))],
    "norm_rope": [
        *(partial(norm_rope, n, 3, d, False) for n in (1, 1001, 160000) for d in (64, 128)),
        *(partial(norm_rope_fp8, n, 3, 128, False) for n in (1, 1001, 160000)),
    ],
    "face_attention": [partial(face_attention, f, p, 3, d, False) for f, p in ((1, 1), (19, 77)) for d in (64, 128)],
    "sparse_attention": [partial(sparse_attention, grid, 2, d, False) for grid, d in _GRIDS],
    "modulate_norm": [partial(modulate_norm, f, p, c, False) for f, p in ((1, 1), (19, 77)) for c in (96, 256, 4096)],
}
