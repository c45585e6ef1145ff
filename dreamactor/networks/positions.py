"""Where a token stands: 3D rotary angles and the sinusoidal timestep."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_angles(
    times: Tensor, height: int, width: int, head_dim: int, theta: float = 10000.0, step: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each token's angles, tokens ordered (time, row, column).

    times [F], in latent frames; rows and columns are `step` apart, in units of 16 pixels; the head's D/2 angles are
    shared out to time, rows and columns -> two of [F*h*w, D/2].
    """
    half = head_dim // 2
    spatial = half // 3

    def axis(positions: Tensor, count: int) -> Tensor:
        exponents = torch.arange(count, device=positions.device, dtype=torch.float32) / count
        return positions.float()[:, None] * theta**-exponents

    rows = axis(step * torch.arange(height, device=times.device), spatial)
    columns = axis(step * torch.arange(width, device=times.device), spatial)
    shape = (times.shape[0], height, width)
    angles = torch.cat(
        [
            axis(times, half - 2 * spatial)[:, None, None].expand(*shape, -1),
            rows[None, :, None].expand(*shape, -1),
            columns[None, None].expand(*shape, -1),
        ],
        -1,
    ).flatten(0, 2)
    return angles.cos(), angles.sin()


def timestep_features(timestep: Tensor, channels: int = 256) -> Tensor:
    """Sinusoidal features of timesteps in [0,1], at the usual scale of 1000: [...] -> [..., channels]."""
    exponents = torch.arange(channels // 2, device=timestep.device, dtype=torch.float32) / (channels // 2)
    angles = 1000.0 * timestep.float()[..., None] * 10000.0**-exponents
    return torch.cat([angles.cos(), angles.sin()], -1)
