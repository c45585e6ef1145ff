"""Training the VAE: reconstruction, edges, frame differences and a little KL, on windows of clips."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.presets import video_frames
from dreamactor.training.data import ClipStore

KL_WEIGHT = 2e-4
EDGE_WEIGHT = 0.5
MOTION_WEIGHT = 0.5
HEAD_WEIGHT = 3.0
CARRIED = 0.3  # how often the first latent is left out, so that the decoder starts on a group of four, too


def vae_batch(store: ClipStore, rng: np.random.Generator, latents: int, count: int) -> tuple[Tensor, Tensor]:
    """(video [B,3,T,H,W] in [-1,1], weight [B,1,T,H,W]): random windows, flipped and recoloured."""
    frames = video_frames(latents)
    videos, weights = [], []
    for _ in range(count):
        clip, start = int(rng.integers(store.count)), int(rng.integers(store.frames.shape[1] - frames + 1))
        video = store.frames[clip, start : start + frames]
        weight = head_mask(store.heads[clip, start : start + frames], store.height, store.width)
        if rng.random() < 0.5:
            video, weight = video[:, :, ::-1], weight[:, :, ::-1]
        if rng.random() < 0.6:
            video = video[..., rng.permutation(3)]
        videos.append(video)
        weights.append(weight)
    return to_video(np.stack(videos)), torch.from_numpy(np.stack(weights))[:, None]


def to_video(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 [B,T,H,W,3] -> float [B,3,T,H,W] in [-1,1]."""
    return torch.from_numpy(np.array(frames)).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def head_mask(heads: NDArray[np.float32], height: int, width: int, inside: float = HEAD_WEIGHT) -> NDArray[np.float32]:
    """[T,H,W]: `inside` within the head's circle, 1 elsewhere. heads [T,3] are x, y and radius in pixels."""
    mask = np.ones((len(heads), height, width), np.float32)
    for frame, (x, y, radius) in zip(mask, heads, strict=True):
        cv2.circle(frame, (round(float(x)), round(float(y))), round(float(radius) * 1.15), (inside,), -1)
    return mask


def vae_loss(
    networks: Networks, video: Tensor, weight: Tensor, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and what to log."""
    mean, logvar = networks.vae.encode(video)
    mean, logvar = mean.float(), logvar.float()
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    latent = mean + (0.5 * logvar).exp() * noise
    first = 0
    if latent.shape[2] > 2 and rng.random() < CARRIED:
        latent, video, weight, first = latent[:, :, 1:], video[:, :, 4:], weight[:, :, 4:], 1
    decoded = networks.vae.decode(latent).float()[:, :, first:]
    video, weight = video[:, :, first:], weight[:, :, first:]
    weight = weight / weight.mean()
    error = decoded - video
    absolute = (error.abs() * weight).mean()
    edges = (error.diff(dim=-1).abs() * weight[..., 1:]).mean() + (error.diff(dim=-2).abs() * weight[..., 1:, :]).mean()
    motion = (error.diff(dim=2).abs() * weight[:, :, 1:]).mean() if error.shape[2] > 1 else error.new_zeros(())
    square = (error.square() * weight).mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss = absolute + 2.0 * square + EDGE_WEIGHT * edges + MOTION_WEIGHT * motion + KL_WEIGHT * kl
    psnr = float(-10 * torch.log10(error.detach().square().mean() / 4))
    return loss, {"loss": float(loss.detach()), "psnr": psnr, "kl": float(kl.detach())}
