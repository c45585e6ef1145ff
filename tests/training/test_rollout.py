"""A stage on the sampler's own path: what it learns from is what the sampler makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamactor.networks import Networks
from dreamactor.pipeline.solver import schedule
from dreamactor.training import parallel
from dreamactor.training.flow_stage import FlowBatch, conditions, flow_batch, rollout_loss
from dreamactor.training.objective import Objective
from dreamactor.training.recipe import Recipe
from dreamactor.training.sampling import sample
from tests.training.helpers import encoded, named

STEPS = 3


@pytest.fixture(params=[0.0, 1.0], ids=["from noise", "carried"])
def drawn(encoded_clips: Path, quick: Recipe, request: pytest.FixtureRequest) -> tuple[Networks, FlowBatch]:
    """Networks and a batch of two latent frames, the first of them carried or not."""
    clips, networks = encoded(encoded_clips)
    stage = replace(named(quick, "rollout"), carried=request.param, dropout=0.0)
    return networks, flow_batch(clips, np.random.default_rng(0), stage, 2, 3)


def test_the_last_step_is_judged_by_what_a_sampler_would_have_made(drawn: tuple[Networks, FlowBatch]) -> None:
    networks, batch = drawn
    path = schedule("euler", STEPS, networks.preset.timestep_shift)
    seen: list[torch.Tensor] = []
    whole = networks.transformer.forward

    def transformer(latent: torch.Tensor, *others: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        seen.append(latent)
        velocity: torch.Tensor = whole(latent, *others, **given)
        return velocity

    networks.transformer.forward = transformer
    loss = float(rollout_loss(networks, batch, torch.Generator().manual_seed(5), path)[0].detach())
    assert len(seen) == STEPS

    carried = seen[0][:, :, :1] if batch.known.any() else None
    given = {name: value.detach() for name, value in conditions(networks, batch).items()}
    generator = torch.Generator().manual_seed(5)
    networks.preset = replace(networks.preset, solver="euler")
    made = sample(networks, given, tuple(batch.latent.shape), STEPS, 1.0, generator, carried)
    judged = slice(1, None) if batch.known.any() else slice(None)
    error = (made - batch.latent).square().mean(1, keepdim=True)[:, :, judged]
    weight = batch.weight[:, :, judged]
    assert loss == pytest.approx(float((error * weight).sum() / weight.sum()) / path[-1].timestep, rel=1e-3)


def test_every_weight_learns_although_the_first_steps_keep_no_gradient(drawn: tuple[Networks, FlowBatch]) -> None:
    """Under autocast too, which would hand the last step the first ones' copies of the weights."""
    networks, batch = drawn
    path = schedule("euler", STEPS, networks.preset.timestep_shift)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = rollout_loss(networks, batch, torch.Generator().manual_seed(0), path)
    loss.backward()

    without = {name for name, value in networks.transformer.named_parameters() if value.grad is None}
    assert without == set()


def test_a_stage_walks_as_far_as_each_of_its_steps(encoded_clips: Path, quick: Recipe) -> None:
    clips, networks = encoded(encoded_clips)
    stage, times = named(quick, "rollout"), []
    whole = networks.transformer.forward

    def transformer(latent: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        times.append(float(timestep.max()))
        velocity: torch.Tensor = whole(latent, timestep, **given)
        return velocity

    networks.transformer.forward = transformer
    objective, walks = Objective(parallel.start(), False), set()
    for step in range(12):
        times.clear()
        objective(networks, clips, stage, [0, step], 0.0)
        walks.add(tuple(times))
    expected = [step.timestep for step in schedule("euler", stage.rollout, networks.preset.timestep_shift)]
    assert walks == {tuple(np.float32(expected[:count]).tolist()) for count in range(1, stage.rollout + 1)}
