"""Causal 3D VAE: 4x8x8 (time, height, width), 16 channels, after Seaweed-7B's published figures (arXiv 2504.08685)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamactor.networks.layers import ChannelNorm, Downsample, ResidualBlock, SpatialConv, Upsample, strides
from dreamactor.presets import LATENT_CHANNELS, VAEConfig


class CausalEncoder(nn.Module):
    """Video or control maps to the latent grid.

    x [B,C,T,H,W], T = 4k+1, H and W multiples of 8 -> [B,out_channels,k+1,H/8,W/8]. Output frame i sees input frames
    up to 4i and none later.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], blocks: int, patch: int, out_channels: int) -> None:
        super().__init__()
        self.patch = patch
        steps = strides(patch)
        if len(channels) != len(steps) + 1:
            raise ValueError(f"patch {patch} needs {len(steps) + 1} channel counts, got {channels}")
        layers: list[nn.Module] = [SpatialConv(in_channels * patch * patch, channels[0])]
        for level, (space, time) in enumerate(steps):
            layers += [ResidualBlock(channels[level]) for _ in range(blocks)]
            layers.append(Downsample(channels[level], channels[level + 1], space, time))
        layers += [ResidualBlock(channels[-1]) for _ in range(blocks)]
        layers += [ChannelNorm(channels[-1]), nn.SiLU(), SpatialConv(channels[-1], out_channels)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        frames_first = x.transpose(1, 2)
        if self.patch > 1:
            frames_first = F.pixel_unshuffle(frames_first, self.patch)
        return self.layers(frames_first).transpose(1, 2)


class CausalDecoder(nn.Module):
    """Latents back to video: [B,16,k+1,h,w] -> [B,3,4k+1,8h,8w]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.patch, channels = config.patch, config.channels
        layers: list[nn.Module] = [SpatialConv(LATENT_CHANNELS, channels[-1])]
        layers += [ResidualBlock(channels[-1]) for _ in range(config.blocks)]
        for level, (space, time) in reversed(list(enumerate(strides(config.patch)))):
            layers.append(Upsample(channels[level + 1], channels[level], space, time))
            layers += [ResidualBlock(channels[level]) for _ in range(config.blocks)]
        layers += [ChannelNorm(channels[0]), nn.SiLU(), SpatialConv(channels[0], 3 * config.patch * config.patch)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        frames_first = self.layers(latent.transpose(1, 2))
        if self.patch > 1:
            frames_first = F.pixel_shuffle(frames_first, self.patch)
        return frames_first.transpose(1, 2)


class VAE(nn.Module):
    """Encoder and decoder with the statistics that make latents zero-mean and unit-variance per channel.

    `shift` and `scale` are set once, after the VAE is trained (`set_statistics`), and travel in the checkpoint.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.encoder = CausalEncoder(3, config.channels, config.blocks, config.patch, 2 * LATENT_CHANNELS)
        self.decoder = CausalDecoder(config)
        self.register_buffer("shift", torch.zeros(LATENT_CHANNELS))
        self.register_buffer("scale", torch.ones(LATENT_CHANNELS))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Records the per-channel mean and standard deviation [16] of raw latents."""
        self.shift.copy_(mean)
        self.scale.copy_(std)

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video [B,3,T,H,W] in [-1,1] -> raw mean and log-variance [B,16,T',H/8,W/8], for training."""
        mean, logvar = self.encoder(video).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def latent(self, video: Tensor) -> Tensor:
        """video [B,3,T,H,W] in [-1,1] -> normalised latent [B,16,T',H/8,W/8], the encoder's mean."""
        mean = self.encoder(video)[:, :LATENT_CHANNELS]
        return (mean - self.shift[:, None, None, None]) / self.scale[:, None, None, None]

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent [B,16,T',h,w] -> video [B,3,4(T'-1)+1,8h,8w], about [-1,1], not clamped."""
        return self.decoder(latent * self.scale[:, None, None, None] + self.shift[:, None, None, None])
