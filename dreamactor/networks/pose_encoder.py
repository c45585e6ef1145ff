"""Pose encoder: skeleton and head-sphere maps to the video latent's grid (arXiv 2504.01724, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from dreamactor.networks.vae import CausalEncoder
from dreamactor.presets import CONTROL_CHANNELS, PoseEncoderConfig


class PoseEncoder(nn.Module):
    """control [B,6,T,H,W] in [0,1] (skeleton RGB, head sphere RGB), T = 4k+1 -> pose latent [B,16,k+1,H/8,W/8].

    The result is concatenated by channel with the noised video latent; zeros stand for "no pose" in guidance.
    """

    def __init__(self, config: PoseEncoderConfig) -> None:
        super().__init__()
        self.encoder = CausalEncoder(
            CONTROL_CHANNELS, config.channels, config.blocks, config.patch, config.out_channels
        )

    def forward(self, control: Tensor) -> Tensor:
        return self.encoder(control)
