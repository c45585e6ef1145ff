"""What a step leaves behind: how far the moving average goes, and the learning rate of the next."""

from __future__ import annotations

import pytest
import torch

from dreamactor.networks import build
from dreamactor.presets import preset
from dreamactor.training.optimizer import WARMUP, schedule
from dreamactor.training.state import MovingAverage


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
