"""The cases on a GPU of the kernels that work row by row: norm and rotary embedding, modulation and norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dreamactor.benchmark import gpu_peers
from dreamactor.benchmark.gpu_cases import Case, Result, chunk, label, make_unusual, normal, sampled_rows
from dreamactor.kernels import dispatch, modulate, reference, rotary
from dreamactor.kernels.tiles import Tile


def norm_rope(
    tokens: int, heads: int, size: int, timed: bool = True, batch: int = 1, width: int = 0, inputs: str = "",
    dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """Kernel 3 on a chunk of a fused projection."""
    x = chunk(batch, tokens, heads * size, width, dtype)
    weight = normal(size, dtype=dtype)
    make_unusual(inputs, x)
    make_unusual(inputs, weight[None])
    angles = torch.randn(tokens, size // 2, device=x.device)
    cos, sin = angles.cos(), angles.sin()
    rows = sampled_rows(tokens)
    peers = {"compiled reference": gpu_peers.compiled(reference.norm_rope, x, weight, cos, sin, heads)} if timed else {}

    def plain(precision: torch.dtype) -> Tensor:
        chosen = (x[:, rows].to(precision), weight.to(precision), cos[rows].to(precision), sin[rows].to(precision))
        return reference.norm_rope(*chosen, heads)

    def sample(result: Result) -> Tensor:
        assert isinstance(result, Tensor)
        return result[:, :, rows]

    return Case(
        "norm_rope", label(f"{tokens}x{heads} D{size}", batch, dtype, inputs, width), size,
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
    x = chunk(batch, tokens, heads * size, 0, dtype)
    weight, angles = normal(size, dtype=dtype), torch.randn(tokens, size // 2, device=x.device)
    make_unusual(inputs, x)
    make_unusual(inputs, weight[None])
    offset = normal(batch, heads, size, dtype=torch.float32) if shifted else None
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
        f"to E4M3{' less an offset' * shifted} " + label(f"{tokens}x{heads} D{size}", batch, dtype, inputs), size,
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
    x, branch = (normal(batch, frames * per_frame, channels, dtype=dtype) if used else None for used in (True, gated))
    assert x is not None
    make_unusual(inputs, x)
    shift, scale, rows = normal(batch, frames, 9, channels, dtype=dtype).unbind(2)[:3]
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

    shape = f"{frames}x{per_frame}x{channels}{' ungated' * (not gated)}"
    return Case(
        "modulate_norm", label(shape, batch, dtype, inputs), channels, run=run, sample=sample,
        exact=lambda: plain(torch.float64), same=lambda: plain(dtype),
        work=(2.0 if gated else 1.0) * 4 * x.numel(), unit="gbps",
        peers=peers, absolute=1e-5, timed=timed, variant="" if gated else "ungated",
    )  # fmt: skip
