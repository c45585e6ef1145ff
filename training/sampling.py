"""Sampling in PyTorch: for sheets, evaluation, and the rollout and decoder stages. What is served runs in engines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.networks.transformer import Transformer
from dreamactor.pipeline.solver import SolverStep, schedule
from dreamactor.presets import rows
from dreamactor.training.eager import eager


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
    """From noise to latent [B,16,F,h,w] under `conditions` (the transformer's keyword arguments), with the preset's
    solver and times, as in the pipeline.

    `guidance` 1 is none; `carried` [B,16,1,h,w] is kept as the first frame.
    """
    device, preset = conditions["pose_latent"].device, networks.preset
    latent = torch.randn(shape, generator=generator, device=generator.device).to(device)
    known = torch.zeros(shape[2], device=device)
    if carried is not None:
        latent[:, :, :1], known[0] = carried, 1
    path = schedule(preset.solver, steps, preset.timestep_shift)
    return walk(networks.transformer, latent, known, conditions, path, guidance)


@eager
def walk(
    transformer: Transformer,
    latent: Tensor,
    known: Tensor,
    conditions: dict[str, Tensor],
    path: Sequence[SolverStep],
    guidance: float = 1.0,
) -> Tensor:
    """Takes the steps of `path` from `latent` [B,16,F,h,w]; frames whose `known` [F] is 1 stay, at timestep 0."""
    guided = rows(guidance) == 2
    if guided:
        conditions = {name: torch.cat([value, torch.zeros_like(value)]) for name, value in conditions.items()}
    previous = torch.zeros_like(latent)
    for step in path:
        timestep = ((1 - known) * step.timestep).expand(len(conditions["pose_latent"]), -1)
        given = latent.repeat(2, 1, 1, 1, 1) if guided else latent
        velocity = transformer(given, timestep, **conditions).float()
        if guided:
            with_conditions, without = velocity.chunk(2)
            velocity = without + guidance * (with_conditions - without)
        kept, now, before = step.coefficients
        moved = kept * latent + now * velocity + before * previous
        latent, previous = torch.where(known[None, None, :, None, None] == 1, latent, moved), velocity
    return latent
