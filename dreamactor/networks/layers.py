"""Causal layers over [B,T,C,H,W]: space and time are convolved apart, so that every kernel is a 2-D convolution.

Two-dimensional convolutions are what every runtime tunes and quantises best. Nothing loops over frames, so an exported
graph is right for any number of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """RMS norm over channels at each position; statistics never mix frames, which keeps the stack causal."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.root = channels**0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-3) * (self.weight * self.root)[:, None, None]


class SpatialConv(nn.Module):
    """A 2-D convolution of every frame."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames = x.shape[:2]
        return self.conv(x.flatten(0, 1)).unflatten(0, (batch, frames))


class TemporalConv(nn.Module):
    """Causal convolution over three frames; with stride 2, 2k+1 frames become k+1 and the first keeps to itself.

    It runs as one 2-D convolution over (frame, position): stacking the three frames' channels for a 1x1 kernel, the
    layout that the weight is kept in, costs every runtime more time than the arithmetic.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(3 * in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight.unflatten(1, (3, -1)).squeeze(-1).transpose(1, 2)  # [C_out, C_in, 3, 1]
        planes = F.pad(x.transpose(1, 2).flatten(3), (0, 0, 2, 0))  # [B, C_in, T+2, H*W]
        out = F.conv2d(planes, weight, self.conv.bias, (self.stride, 1))
        return out.unflatten(3, x.shape[-2:]).transpose(1, 2)


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution in space; the same in time; added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.space = nn.Sequential(ChannelNorm(channels), nn.SiLU(), SpatialConv(channels, channels))
        self.time = nn.Sequential(ChannelNorm(channels), nn.SiLU(), TemporalConv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.time(self.space(x))


class Downsample(nn.Module):
    """Halves height and width (`space`) and 2k+1 frames to k+1 (`time`)."""

    def __init__(self, in_channels: int, out_channels: int, space: bool, time: bool) -> None:
        super().__init__()
        self.space = SpatialConv(in_channels, out_channels, stride=2 if space else 1)
        self.time = TemporalConv(out_channels, out_channels, stride=2) if time else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.time(self.space(x))


class Upsample(nn.Module):
    """Doubles height and width (`space`) and k+1 frames to 2k+1 (`time`); the inverse layout of Downsample."""

    def __init__(self, in_channels: int, out_channels: int, space: bool, time: bool) -> None:
        super().__init__()
        self.scale = 2 if space else 1
        self.time = TemporalConv(in_channels, in_channels) if time else None
        self.space = SpatialConv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.time is not None:
            x = self.time(x.repeat_interleave(2, 1)[:, 1:])
        if self.scale == 2:
            batch, frames = x.shape[:2]
            x = F.interpolate(x.flatten(0, 1), scale_factor=2.0, mode="nearest").unflatten(0, (batch, frames))
        return self.space(x)


def strides(patch: int) -> list[tuple[bool, bool]]:
    """(space, time) of each down-sampling step after folding `patch` pixels: 8x in space and 4x in time in all.

    Time is halved in the last two steps: [space, both, both] for patch 1, [time, both] for patch 4.
    """
    spatial = {1: 3, 2: 2, 4: 1, 8: 0}[patch]
    steps = max(spatial, 2)
    return [(step >= steps - spatial, step >= steps - 2) for step in range(steps)]
