"""What a step does: its gradients and rates, how far the moving average goes, the learning rate of the next."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dreamactor.networks import build
from dreamactor.presets import preset
from dreamactor.training import parallel
from dreamactor.training.optimizer import CLIP_NORM, FACE_RATE, WARMUP, StageOptimizer, schedule
from dreamactor.training.recipe import Recipe
from dreamactor.training.state import MovingAverage
from tests.training.helpers import named


@pytest.mark.parametrize(("step", "share"), [(0, 0.9), (8, 0.5), (10_000, 0.01)])
def test_the_average_moves_slowly_and_further_in_early_steps(step: int, share: float) -> None:
    networks = build(preset("tiny"), 0)
    average = MovingAverage(networks, decay=0.99)
    before = dict(average.values)
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.add_(1)
    average.values = {name: value.clone() for name, value in before.items()}
    average.update(networks, step)
    for name, _ in networks.named_parameters():
        torch.testing.assert_close(average.values[name] - before[name], torch.full_like(before[name], share))


def test_the_learning_rate_rises_stays_and_falls_to_a_tenth() -> None:
    assert schedule(0, 0.0, 0.4) == pytest.approx(1 / WARMUP)
    assert schedule(WARMUP, 0.6, 0.4) == schedule(WARMUP, 1.0, 0.0) == 1
    assert schedule(WARMUP, 0.8, 0.4) == pytest.approx(0.55)
    assert schedule(WARMUP, 1.0, 0.4) == pytest.approx(0.1)


def test_large_gradients_are_cut_and_face_attention_learns_at_a_rate_of_its_own(quick: Recipe) -> None:
    stage = named(quick, "all")
    optimizer = StageOptimizer(build(preset("tiny"), 0), stage, parallel.start())
    for parameter in optimizer.parameters.values():
        parameter.grad = torch.full_like(parameter, 1e3)
    norms: list[float] = []

    def measure(*given: Any) -> None:
        gradients = [value.grad.flatten() for value in optimizer.parameters.values() if value.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))

    optimizer.optimizer.register_step_pre_hook(measure)
    optimizer.step(WARMUP, 0.0)
    assert norms == [pytest.approx(CLIP_NORM, rel=1e-3)]
    rates = [group["lr"] / stage.learning_rate for group in optimizer.optimizer.param_groups]
    assert rates == pytest.approx([1.0, FACE_RATE, 1.0])
