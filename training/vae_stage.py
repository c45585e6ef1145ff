"""Training the VAE or its decoder: reconstruction, edges, frame differences, a little KL, on windows of clips."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.presets import video_frames
from dreamactor.training.store import ClipStore

KL_WEIGHT = 2e-4
EDGE_WEIGHT = 0.5
MOTION_WEIGHT = 0.5
HEAD_WEIGHT, MOUTH_WEIGHT = 3.0, 8.0
CARRIED = 0.3  # how often the first latent is left out, so that the decoder starts on a group of four, too


def vae_batch(store: ClipStore, rng: np.random.Generator, latents: int, count: int) -> tuple[Tensor, Tensor]:
    """(video [B,3,T,H,W] in [-1,1], weight [B,1,T,H,W]): random windows, flipped and recoloured."""
    frames = video_frames(latents)
    videos, weights = [], []
    for _ in range(count):
        clip, start = int(rng.integers(store.count)), int(rng.integers(store.frames.shape[1] - frames + 1))
        window = slice(start, start + frames)
        video = store.frames[clip, window]
        weight = face_mask(store.heads[clip, window], store.mouths[clip, window], store.height, store.width)
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


def face_mask(heads: NDArray[np.float32], mouths: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """[T,H,W]: `MOUTH_WEIGHT` round the mouth, `HEAD_WEIGHT` in the rest of the head's circle, 1 elsewhere.

    heads and mouths [T,3] are x, y and radius in pixels; a mouth of radius 0 does not show.
    """
    mask = np.ones((len(heads), height, width), np.float32)
    for frame, head, mouth in zip(mask, heads, mouths, strict=True):
        for (x, y, radius), weight in ((head * (1, 1, 1.15), HEAD_WEIGHT), (mouth, MOUTH_WEIGHT)):
            if radius > 0:
                cv2.circle(frame, (round(float(x)), round(float(y))), round(float(radius)), (weight,), -1)
    return mask


def vae_loss(
    networks: Networks,
    video: Tensor,
    weight: Tensor,
    rng: np.random.Generator,
    generator: torch.Generator,
    latent_noise: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and what to log.

    `latent_noise` is the largest deviation of noise added to a clip's normalised latents: what a sampler or a quantised
    network hands the decoder is off by about as much.
    """
    mean, logvar = networks.vae.encode(video)
    mean, logvar = mean.float(), logvar.float()
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    latent = mean + (0.5 * logvar).exp() * noise
    if latent_noise:
        amount = latent_noise * torch.rand(len(latent), generator=generator)
        more = torch.randn(mean.shape, generator=generator) * amount[:, None, None, None, None]
        latent = latent + networks.vae.scale[:, None, None, None] * more.to(latent.device)
    first = 0
    if latent.shape[2] > 2 and rng.random() < CARRIED:
        latent, video, weight, first = latent[:, :, 1:], video[:, :, 4:], weight[:, :, 4:], 1
    decoded = networks.vae.decoder(latent).float()  # raw, as the encoder gives them
    loss, psnr = reconstruction_loss(decoded[:, :, first:], video[:, :, first:], weight[:, :, first:])
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss = loss + KL_WEIGHT * kl
    return loss, {"loss": float(loss.detach()), "psnr": psnr, "kl": float(kl.detach())}


def reconstruction_loss(decoded: Tensor, video: Tensor, weight: Tensor) -> tuple[Tensor, float]:
    """Loss and PSNR in dB of decoded frames [B,3,T,H,W] beside the true ones; weight [B,1,T,H,W]."""
    weight = weight / weight.mean()
    error = decoded - video
    absolute = (error.abs() * weight).mean()
    edges = (error.diff(dim=-1).abs() * weight[..., 1:]).mean() + (error.diff(dim=-2).abs() * weight[..., 1:, :]).mean()
    motion = (error.diff(dim=2).abs() * weight[:, :, 1:]).mean() if error.shape[2] > 1 else error.new_zeros(())
    square = (error.square() * weight).mean()
    loss = absolute + 2.0 * square + EDGE_WEIGHT * edges + MOTION_WEIGHT * motion
    return loss, float(-10 * torch.log10(error.detach().square().mean() / 4))
