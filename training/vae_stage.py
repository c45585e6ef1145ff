"""Training the VAE or its decoder: reconstruction, edges, frame differences, a little KL, on windows of clips."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.presets import video_frames
from dreamactor.training.device_clips import Clips

KL_WEIGHT = 2e-4
EDGE_WEIGHT = 0.5
MOTION_WEIGHT = 0.5
HEAD_WEIGHT, MOUTH_WEIGHT = 3.0, 16.0
HEAD_REACH = 1.15  # of a head's radius: hair and chin
CARRIED = 0.3  # how often the first latent is left out: the decoder starts on a group of four frames, too


def vae_batch(
    clips: Clips, rng: np.random.Generator, latents: int, count: int, share: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """(video [B,3,T,H,W] in [-1,1], weight [B,1,T,H,W]): random windows, flipped and recoloured; `share` of `count`."""
    frames, shelf, store = video_frames(latents), clips.pictures, clips.store
    rows = rng.choice(shelf.ready, size=count)
    start = rng.integers(store.frames.shape[1] - frames + 1, size=count)
    flipped, recoloured = rng.random(count) < 0.5, rng.random(count) < 0.6
    colors = np.tile(np.arange(3), (count, 1))
    colors = np.where(recoloured[:, None], rng.permuted(colors, axis=1), colors)
    rows, window, mirror = rows[share], start[share, None] + np.arange(frames), shelf.there(flipped[share])
    video, heads, mouths = (shelf.take(name, rows, window) for name in ("frames", "heads", "mouths"))
    weight = face_mask(heads, mouths, store.height, store.width)
    order = shelf.there(colors[share])[:, None, None, None]
    video = to_video(torch.gather(video, 4, order.expand_as(video)))
    mirror = mirror[:, None, None, None, None]
    return torch.where(mirror, video.flip(4), video), torch.where(mirror, weight.flip(4), weight)


def to_video(frames: Tensor) -> Tensor:
    """uint8 [B,T,H,W,3] -> float [B,3,T,H,W] in [-1,1]."""
    return frames.permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def face_mask(heads: Tensor, mouths: Tensor, height: int, width: int) -> Tensor:
    """[B,1,T,H,W]: `MOUTH_WEIGHT` round the mouth, `HEAD_WEIGHT` in the rest of the head's circle, 1 elsewhere.

    heads and mouths [B,T,3] are x, y and radius in pixels; a mouth of radius 0 does not show.
    """
    y = torch.arange(height, device=heads.device)[:, None]
    x = torch.arange(width, device=heads.device)

    def near(places: Tensor, reach: float) -> Tensor:
        at_x, at_y, radius = places.round()[..., None, None].unbind(2)
        radius = (places[..., 2, None, None] * reach).round()
        return (radius > 0) & ((x - at_x).square() + (y - at_y).square() <= radius.square())

    weight = 1 + (HEAD_WEIGHT - 1) * near(heads, HEAD_REACH).float()
    return torch.where(near(mouths, 1.0), MOUTH_WEIGHT, weight)[:, None]


def vae_loss(
    networks: Networks,
    video: Tensor,
    weight: Tensor,
    rng: np.random.Generator,
    generator: torch.Generator,
    latent_noise: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch and what to log.

    `latent_noise` is the largest standard deviation of noise added to a clip's normalised latents: those of a sampler
    or a quantised network are off by about as much. `generator` is of the networks' device.
    """
    mean, logvar = networks.vae.encode(video)
    mean, logvar = mean.float(), logvar.float()
    latent = mean + (0.5 * logvar).exp() * _normal(mean, generator)
    if latent_noise:
        amount = latent_noise * torch.rand(len(latent), generator=generator, device=latent.device)
        more = _normal(mean, generator) * amount[:, None, None, None, None]
        latent = latent + networks.vae.scale[:, None, None, None] * more
    first = 0
    if latent.shape[2] > 2 and rng.random() < CARRIED:
        latent, video, weight, first = latent[:, :, 1:], video[:, :, 4:], weight[:, :, 4:], 1
    decoded = networks.vae.decoder(latent).float()  # raw, as the encoder gives them
    loss, psnr = reconstruction_loss(decoded[:, :, first:], video[:, :, first:], weight[:, :, first:])
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss = loss + KL_WEIGHT * kl
    return loss, {"loss": loss.detach(), "psnr": psnr, "kl": kl.detach()}


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)


def reconstruction_loss(decoded: Tensor, video: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and PSNR in dB of decoded frames [B,3,T,H,W] beside the true ones; weight [B,1,T,H,W]."""
    weight = weight / weight.mean()
    error = decoded - video
    absolute = (error.abs() * weight).mean()
    edges = (error.diff(dim=-1).abs() * weight[..., 1:]).mean() + (error.diff(dim=-2).abs() * weight[..., 1:, :]).mean()
    motion = (error.diff(dim=2).abs() * weight[:, :, 1:]).mean() if error.shape[2] > 1 else error.new_zeros(())
    square = (error.square() * weight).mean()
    loss = absolute + 2.0 * square + EDGE_WEIGHT * edges + MOTION_WEIGHT * motion
    return loss, -10 * torch.log10(error.detach().square().mean() / 4)
