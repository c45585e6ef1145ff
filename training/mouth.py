"""How a mouth moves, compared in pixels: what few cells of a latent hide among all else that they hold.

Who is seen, where the light comes from and where the head is drop out of it: patches go with the mouth, and of each
only its difference from the clip's mean counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 12  # points along a patch's side
SMALLEST = 3.0  # half-side in pixels under which a mouth has too few of them
FEWEST = 5  # frames in which a mouth must show
STILL = 5e-3  # variance of a patch's values, in [-1,1], that a mouth at rest has from turning and from the codec


def patches(video: Tensor, places: Tensor) -> Tensor:
    """The squares [B,T,3,GRID,GRID] at `places` [B,T,3] (x, y and half-side in pixels) of a video [B,3,T,H,W]."""
    batch, _, frames, height, width = video.shape
    along = torch.linspace(-1, 1, GRID, device=video.device)
    y, x = torch.meshgrid(along, along, indexing="ij")
    at_x, at_y, half = places.flatten(0, 1)[..., None, None].unbind(1)
    grid = torch.stack([(at_x + half * x + 0.5) * (2 / width) - 1, (at_y + half * y + 0.5) * (2 / height) - 1], -1)
    seen = F.grid_sample(video.transpose(1, 2).flatten(0, 1), grid, padding_mode="border", align_corners=False)
    return seen.unflatten(0, (batch, frames))


def unexplained(made: Tensor, truth: Tensor, places: Tensor) -> Tensor:
    """The share of the mouths' movement in `truth` that `made` does not have, a mean over the clips in which a mouth
    shows; both videos [B,3,T,H,W] in [-1,1], places [B,T,3]. 1 for a mouth that rests, 0 where none shows."""
    shown = (places[..., 2] >= SMALLEST).to(truth.dtype)
    often = (shown.sum(1) >= FEWEST).to(truth.dtype)
    ours, theirs = (_movement(patches(video, places), shown) for video in (made, truth))
    points = shown.sum(1) * theirs[0, 0].numel()
    share = (ours - theirs).square().sum((1, 2, 3, 4)) / (theirs.square().sum((1, 2, 3, 4)) + STILL * points + 1e-6)
    return (share * often).sum() / often.sum().clamp_min(1)


def _movement(seen: Tensor, shown: Tensor) -> Tensor:
    """Patches [B,T,3,n,n] less their mean over the frames `shown` [B,T]; 0 in the others."""
    weight = shown[..., None, None, None]
    mean = (seen * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)
    return (seen - mean) * weight
