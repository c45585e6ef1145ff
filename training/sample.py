"""Sampling in PyTorch, for sheets and evaluation; what is served goes through the engines instead."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from dreamactor.networks import Networks


@torch.no_grad()
def sample(
    networks: Networks,
    conditions: dict[str, Tensor],
    shape: tuple[int, ...],
    steps: int,
    guidance: float,
    generator: torch.Generator,
    carried: Tensor | None = None,
) -> Tensor:
    """Euler from noise to latent [B,16,F,h,w] under `conditions` (the transformer's keyword arguments).

    `guidance` 1 is none; `carried` [B,16,1,h,w] is kept as the first frame.
    """
    device = conditions["pose_latent"].device
    latent = torch.randn(shape, generator=generator).to(device)
    known = torch.zeros(shape[2], device=device)
    if carried is not None:
        latent[:, :, :1], known[0] = carried, 1
    if guidance != 1:
        conditions = {name: torch.cat([value, torch.zeros_like(value)]) for name, value in conditions.items()}
    times = torch.linspace(1, 0, steps + 1).tolist()
    for now, following in pairwise(times):
        timestep = ((1 - known) * now).expand(len(conditions["pose_latent"]), -1)
        rows = latent.repeat(2, 1, 1, 1, 1) if guidance != 1 else latent
        velocity = networks.transformer(rows, timestep, **conditions).float()
        if guidance != 1:
            with_conditions, without = velocity.chunk(2)
            velocity = without + guidance * (with_conditions - without)
        latent = latent + (following - now) * velocity * (1 - known)[None, None, :, None, None]
    return latent
