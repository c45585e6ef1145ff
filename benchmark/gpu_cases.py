"""The kernels on a GPU: what each case computes, how it is checked, and what it is timed against; `gpu_plan` has sizes.

A check compares a sample of rows with float64 and holds the kernel to twice the error of PyTorch's own attention in the
same precision. Outputs start as NaN and inputs are fresh random numbers, of other scale than one here and there; what
networks give besides is asked for by `inputs`: see `_unusual`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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
Segments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
DEVICE = "cuda"  # where the tensors lie
GPU = torch.device("cuda", 0)  # whose tiles are run
SAMPLE = 192  # rows compared with float64
REFERENCE_TOKENS = 2400


@dataclass
class Case:
    """One kernel at one shape.

    `run` takes a tile; `exact` and `same` give the sampled rows in float64 and by PyTorch in the same precision,
    `sample` picks those rows from the kernel's result. `work` is FLOP (attention) or bytes (the rest). `variant` names
    another kernel of the same table. Runs from compute capability `since` on; where it is not `tuned` the tile makes
    no difference, and one is run. With `goal` it is held to the FP8 kernel's goal besides.
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
    goal: bool = False
    since: int = 80
    variant: str = ""

    def table_size(self) -> int:
        """The tile table's size for this case: the head size, or the class of channels."""
        known = tiles.sizes(self.kernel, dispatch.architecture(GPU))
        return self.size if self.kernel != "modulate_norm" else min((n for n in known if n >= self.size), default=0)

    def candidates(self) -> tuple[Tile, ...]:
        """The tiles of this device's table; none where the device itself is older than `since`."""
        if dispatch.capability(GPU) < self.since:
            return ()
        found = tiles.tiles(self.kernel, dispatch.architecture(GPU), self.table_size())
        return found if self.tuned else found[:1]


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


def _of(batch: int) -> str:
    return f"{batch}x" if batch > 1 else ""


def _lengths(tokens: int, keys: int, references: int) -> str:
    return f"{tokens}+{references}" if keys == tokens else f"{tokens} on {keys}+{references}"


def _besides(dtype: torch.dtype, inputs: str, width: int = 0) -> str:
    """What is not usual about a case, for its label."""
    found = ("" if dtype == torch.bfloat16 else str(dtype)[6:], inputs, f"rows {width} apart" if width else "")
    return "".join(f", {word}" for word in found if word)


def _sampled(result: Result, rows: Tensor, heads: int, size: int) -> Tensor:
    """The same rows of a kernel's [B,M,H*D]."""
    out = result if isinstance(result, Tensor) else result[0]
    picked: Tensor = out[-1, rows].unflatten(-1, (heads, size))[:, [0, heads - 1]]
    return picked.transpose(0, 1)


def _chunk(batch: int, tokens: int, channels: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[B,N,channels]: the last of `width` columns of a fused projection (0: three times as many)."""
    return torch.randn(batch, tokens, width or 3 * channels, device=DEVICE, dtype=dtype)[..., -channels:]


def _apart(batch: int, tokens: int, heads: int, size: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[B,H,N,D] as a strided view of a fused projection, rows `width` elements apart (see `_chunk`)."""
    rows: Tensor = _chunk(batch, tokens, heads * size, width, dtype).unflatten(-1, (heads, size))
    return rows.transpose(1, 2)


def _unusual(inputs: str, q: Tensor, keys: Sequence[Tensor] = (), values: Sequence[Tensor] = ()) -> None:
    """Changes the tensors [...,N,D]. "outliers": a row of each a thousand times as large; "large": beyond E4M3's 448,
    the values near bf16's end; "offset": a vector common to all keys, which a softmax does not see but E4M3 would.
    """
    match inputs:
        case "":
            pass
        case "outliers":
            for tensor in (q, *keys):
                tensor[..., -1:, :] *= 1e3
            for tensor in values:
                tensor[..., :1, :] *= 1e3
        case "large":
            q *= 1e4
            for tensor in keys:
                tensor *= 1e-4
            for tensor in values:
                tensor *= 2.0**100
        case "offset":
            offset = 30 * _random(*q.shape[:2], 1, q.shape[3], dtype=q.dtype)
            for tensor in keys:
                tensor += offset
        case _:
            raise ValueError(f"inputs are '{inputs}'; expected 'outliers', 'large', 'offset' or nothing.")


def _segments(
    batch: int, tokens: int, keys: int, references: int, heads: int, size: int, dtype: torch.dtype, width: int,
    inputs: str,
) -> Segments:  # fmt: skip
    """q, k, v, k_reference, v_reference; v is the strided view that the network has."""
    q, k = _heads(batch, tokens, heads, size, dtype), _heads(batch, keys, heads, size, dtype)
    v = _apart(batch, keys, heads, size, width, dtype)
    k_reference, v_reference = (_heads(batch, references, heads, size, dtype) for _ in range(2))
    _unusual(inputs, q, (k, k_reference), (v, v_reference))
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

    rows = _rows(tokens)
    peers = {name: gpu_peers.sdpa(name, joined, scale) for name in gpu_peers.BACKENDS}
    if timed:
        peers |= {"flex": gpu_peers.flex(joined, scale), "compiled unfused": gpu_peers.unfused(joined, scale)}
    return Case(
        "two_segment",
        f"{_of(batch)}{_lengths(tokens, keys, references)} D{size}{_besides(dtype, inputs, width)}", size,
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

    rows, pick = _rows(tokens), [0, heads - 1]

    def whole() -> Tensor:
        return fp8.launch(*segments, scale, tiles.choose("fp8_attention", arch, size), arch)

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
        "fp8_attention", f"{_of(batch)}{_lengths(tokens, keys, references)} D128{_besides(dtype, inputs, width)}", size,
        run=lambda tile: fp8.attend(*parts(), scale, dtype, tile, arch),
        sample=partial(_sampled, rows=rows, heads=heads, size=size),
        exact=lambda: rounded(torch.float64), same=lambda: rounded(torch.float32),
        work=4.0 * batch * heads * tokens * (keys + references) * size,
        peers={"with quantisation": whole} if timed else {},
        absolute=2e-3, timed=timed, goal=tokens >= fp8.QUANT_BLOCK and not inputs, since=dispatch.FP8_SINCE,
    )  # fmt: skip


def face_attention(
    frames: int, per_frame: int, heads: int, size: int, timed: bool = True, batch: int = 1, width: int = 0,
    inputs: str = "", dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """Kernel 4 against PyTorch's attention with a mask over all frames; queries are strided with `width`."""
    scale, window, group = size**-0.5, 1, 4
    tokens = frames * per_frame
    q = _apart(batch, tokens, heads, size, width, dtype) if width else _heads(batch, tokens, heads, size, dtype)
    k, v = (_heads(batch, frames * group, heads, size, dtype) for _ in range(2))
    _unusual(inputs, q, [k], [v])
    query_frame = torch.arange(frames, device=DEVICE).repeat_interleave(per_frame)
    key_frame = torch.arange(frames, device=DEVICE).repeat_interleave(group)
    mask = (query_frame[:, None] - key_frame).abs() <= window
    rows, pick = _rows(tokens), [0, heads - 1]

    def plain(precision: torch.dtype) -> Tensor:
        chosen = (q[-1:, pick][:, :, rows].to(precision), k[-1:, pick].to(precision), v[-1:, pick].to(precision))
        out: Tensor = torch.nn.functional.scaled_dot_product_attention(*chosen, attn_mask=mask[rows], scale=scale)[0]
        return out

    def arguments() -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v

    blocks = partial(gpu_peers.frame_mask, frames, per_frame, group, window, DEVICE)
    return Case(
        "face_attention", f"{_of(batch)}{frames}x{per_frame} D{size}{_besides(dtype, inputs, width)}", size,
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
    grid: tuple[int, int, int], heads: int, size: int, timed: bool = True, batch: int = 1, references: int = 0,
    width: int = 0, inputs: str = "", dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """Kernel 5 over sliding tiles; its work is that of the blocks visited."""
    references = references or REFERENCE_TOKENS
    scale = size**-0.5
    layout = sliding_tiles(grid)
    tokens = grid[0] * grid[1] * grid[2]
    segments = _segments(batch, tokens, tokens, references, heads, size, dtype, width, inputs)
    q, k, v, k_reference, v_reference = segments
    index, offsets = layout.index.to(DEVICE), layout.offsets.to(DEVICE)
    sampled = {
        block: torch.arange(*layout.offsets[block : block + 2].tolist(), device=DEVICE)
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
        "sparse_attention",
        f"{_of(batch)}{grid} density {layout.density:.3f} D{size}{_besides(dtype, inputs, width)}", size,
        run=lambda tile: sparse.launch(*segments, index, offsets, scale, tile),
        sample=partial(_sampled, rows=torch.cat([*sampled.values()]), heads=heads, size=size),
        exact=lambda: plain(torch.float64), same=lambda: plain(dtype),
        work=work, timed=timed,
        peers={"flex": gpu_peers.flex(joined, scale, partial(gpu_peers.block_mask, layout, references, DEVICE))}
        if timed else {},
    )  # fmt: skip


def norm_rope(
    tokens: int, heads: int, size: int, timed: bool = True, batch: int = 1, width: int = 0, inputs: str = "",
    dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """Kernel 3 on a chunk of a fused projection."""
    x = _chunk(batch, tokens, heads * size, width, dtype)
    weight = _random(size, dtype=dtype)
    _unusual(inputs, x)
    _unusual(inputs, weight[None])
    angles = torch.randn(tokens, size // 2, device=DEVICE)
    cos, sin = angles.cos(), angles.sin()
    rows = _rows(tokens)
    peers = {"compiled reference": gpu_peers.compiled(reference.norm_rope, x, weight, cos, sin, heads)} if timed else {}

    def plain(precision: torch.dtype) -> Tensor:
        chosen = (x[:, rows].to(precision), weight.to(precision), cos[rows].to(precision), sin[rows].to(precision))
        return reference.norm_rope(*chosen, heads)

    def sample(result: Result) -> Tensor:
        assert isinstance(result, Tensor)
        return result[:, :, rows]

    return Case(
        "norm_rope", f"{_of(batch)}{tokens}x{heads} D{size}{_besides(dtype, inputs, width)}", size,
        run=lambda tile: rotary.launch(x, weight, cos, sin, heads, 1e-6, tile), sample=sample,
        exact=lambda: plain(torch.float64), same=lambda: plain(dtype),
        work=2.0 * 2 * x.numel() + 4.0 * 2 * cos.numel(), unit="gbps",
        peers=peers,
        absolute=1e-5, timed=timed,
    )  # fmt: skip


def norm_rope_fp8(
    tokens: int, heads: int, size: int, timed: bool = True, batch: int = 1, shifted: bool = False, inputs: str = "",
    dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """Kernel 3 to E4M3 with scales, with or without an offset taken off first; it has one tile."""
    x = _chunk(batch, tokens, heads * size, 0, dtype)
    weight, angles = _random(size, dtype=dtype), torch.randn(tokens, size // 2, device=DEVICE)
    _unusual(inputs, x)
    _unusual(inputs, weight[None])
    offset = _random(batch, heads, size, dtype=torch.float32) if shifted else None
    cos, sin = angles.cos(), angles.sin()
    last = slice((tokens - 1) // reference.FP8_BLOCK * reference.FP8_BLOCK, tokens)  # the last block alone

    def plain(precision: torch.dtype) -> Tensor:
        chosen = (x[:, last].to(precision), weight.to(precision), cos[last].to(precision), sin[last].to(precision))
        rotated = reference.norm_rope(*chosen, heads)
        if offset is not None:
            rotated = rotated - offset[:, :, None].to(precision)
        if precision == torch.float64:
            return rotated
        return reference.dequantize_blocks(*reference.quantize_blocks(rotated))

    def sample(result: Result) -> Tensor:
        assert isinstance(result, tuple)
        return reference.dequantize_blocks(result[0][:, :, last], result[1][:, :, -1:])

    return Case(
        "norm_rope",
        f"to E4M3{' less an offset' * shifted} {_of(batch)}{tokens}x{heads} D{size}{_besides(dtype, inputs)}", size,
        run=lambda tile: rotary.launch_fp8(x, weight, cos, sin, heads, 1e-6, offset), sample=sample,
        exact=lambda: plain(torch.float64), same=lambda: plain(dtype),
        work=3.0 * x.numel() + 4.0 * 2 * cos.numel(), unit="gbps", timed=timed,
        tuned=False, since=dispatch.FP8_SINCE, variant="to E4M3",
    )  # fmt: skip


def modulate_norm(
    frames: int, per_frame: int, channels: int, timed: bool = True, batch: int = 1, gated: bool = True,
    inputs: str = "", dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """Kernel 6: with its gate two reads and two writes of the rows, without it one of each."""
    x, branch = (
        torch.randn(batch, frames * per_frame, channels, device=DEVICE, dtype=dtype) if used else None
        for used in (True, gated)
    )
    assert x is not None
    _unusual(inputs, x)
    shift, scale, rows = _random(batch, frames, 9, channels, dtype=dtype).unbind(2)[:3]
    gate = rows if gated else None
    arguments = (x, shift, scale, branch, gate)
    peers = {"compiled reference": gpu_peers.compiled(reference.modulate_norm, *arguments)} if timed else {}

    def plain(precision: torch.dtype) -> Tensor:
        last = (-per_frame, -1, -1, -per_frame, -1)  # the last frame
        wide: list[Any] = [
            None if part is None else part[:, start:].to(precision) for part, start in zip(arguments, last, strict=True)
        ]
        residual, normed = reference.modulate_norm(*wide)
        return torch.cat((residual, normed)) if gated else normed

    def sample(result: Result) -> Tensor:
        assert isinstance(result, tuple)
        return torch.cat([part[:, -per_frame:] for part in result])

    def run(tile: Tile) -> tuple[Tensor, ...]:
        residual, normed = modulate.launch(*arguments, 1e-6, tile)
        return (normed,) if residual is None else (residual, normed)

    shape = f"{_of(batch)}{frames}x{per_frame}x{channels}{' ungated' * (not gated)}{_besides(dtype, inputs)}"
    return Case(
        "modulate_norm", shape, channels, run=run, sample=sample,
        exact=lambda: plain(torch.float64), same=lambda: plain(dtype),
        work=(2.0 if gated else 1.0) * 4 * x.numel(), unit="gbps",
        peers=peers, absolute=1e-5, timed=timed, variant="" if gated else "ungated",
    )  # fmt: skip
