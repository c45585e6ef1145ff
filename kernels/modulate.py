"""Gated residual, LayerNorm and the timestep's modulation in one pass over the rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamactor.kernels.tiles import Tile


@triton.jit(do_not_specialize=["rows", "rows_per_frame"])
def modulate_kernel(
    p_x, p_branch, p_gate, p_shift, p_scale, p_residual, p_normed, rows, rows_per_frame, channels,
    gate_row, shift_row, scale_row, EPS: tl.constexpr, GATED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """x, branch, residual, normed [rows, C] contiguous; gate, shift, scale one row a latent frame, any row stride.

    Not GATED: branch and gate are not read, residual is not written. Grid: (blocks of rows,).
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    lane = tl.arange(0, BLOCK_C)[None, :]
    real = (row[:, None] < rows) & (lane < channels)
    at = row[:, None].to(tl.int64) * channels + lane
    frame = (row // rows_per_frame)[:, None].to(tl.int64)
    x = tl.load(p_x + at, mask=real, other=0.0).to(tl.float32)
    if GATED:
        branch = tl.load(p_branch + at, mask=real, other=0.0).to(tl.float32)
        x += tl.load(p_gate + frame * gate_row + lane, mask=real, other=0.0).to(tl.float32) * branch
        tl.store(p_residual + at, x.to(p_residual.dtype.element_ty), mask=real)
    mean = tl.sum(x, 1) / channels
    centred = tl.where(real, x - mean[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 1) / channels + EPS)
    scale = tl.load(p_scale + frame * scale_row + lane, mask=real, other=0.0).to(tl.float32)
    shift = tl.load(p_shift + frame * shift_row + lane, mask=real, other=0.0).to(tl.float32)
    normed = centred * inverse[:, None] * (1 + scale) + shift
    tl.store(p_normed + at, normed.to(p_normed.dtype.element_ty), mask=real)


def _frame_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """[B,F,C] as rows of one stride, copied only where the batch and frame strides do not make one."""
    if (tensor.shape[0] > 1 and tensor.stride(0) != tensor.shape[1] * tensor.stride(1)) or tensor.stride(2) != 1:
        tensor = tensor.contiguous()
    return tensor, tensor.stride(1)


def launch(
    x: Tensor, shift: Tensor, scale: Tensor, branch: Tensor | None, gate: Tensor | None, eps: float, tile: Tile
) -> tuple[Tensor | None, Tensor]:
    """Run the kernel; shapes as `reference.modulate_norm` -> (residual or None without a branch, normed)."""
    batch, tokens, channels = x.shape
    gated = branch is not None and gate is not None
    x = x.contiguous()
    normed = torch.empty(batch, tokens, channels, dtype=x.dtype, device=x.device)
    residual = torch.empty(batch, tokens, channels, dtype=x.dtype, device=x.device) if gated else None
    (shift, shift_row), (scale, scale_row) = _frame_rows(shift), _frame_rows(scale)
    gate_rows, gate_row = _frame_rows(gate) if gate is not None else (x, 0)
    rows = batch * tokens
    modulate_kernel[(triton.cdiv(rows, tile.block_m),)](
        x, x if branch is None else branch.contiguous(), gate_rows, shift, scale,
        normed if residual is None else residual, normed, rows, tokens // shift.shape[1], channels,
        gate_row, shift_row, scale_row, EPS=eps, GATED=gated,
        BLOCK_M=tile.block_m, BLOCK_C=triton.next_power_of_2(channels),
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return residual, normed
