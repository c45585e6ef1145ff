"""Face motion encoder: each face crop becomes one token (arXiv 2504.01724, section 3.2; its layers are our choice)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from dreamactor.networks.layers import ChannelNorm
from dreamactor.presets import FACE_SIZE, FaceEncoderConfig


class FaceBlock(nn.Module):
    """Pre-norm residual of two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ChannelNorm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            ChannelNorm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class FaceMotionEncoder(nn.Module):
    """faces [B,T,3,224,224] in [-1,1] -> motion tokens [B,T,c], one a frame; zeros stand for "no face"."""

    def __init__(self, config: FaceEncoderConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, config.channels[0], config.stem, stride=config.stem)]
        grid = FACE_SIZE // config.stem
        for index, channels in enumerate(config.channels):
            if index:
                layers.append(nn.Conv2d(config.channels[index - 1], channels, 3, stride=2, padding=1))
                grid = math.ceil(grid / 2)
            layers += [FaceBlock(channels) for _ in range(config.blocks)]
        layers += [ChannelNorm(config.channels[-1]), nn.SiLU(), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(config.channels[-1] * grid * grid, config.out_channels)

    def forward(self, faces: Tensor) -> Tensor:
        batch, frames = faces.shape[:2]
        return self.out(self.layers(faces.flatten(0, 1))).reshape(batch, frames, -1)
