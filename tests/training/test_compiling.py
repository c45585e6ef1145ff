"""What is compiled before training: every shape of batch that training then draws, and nothing of it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dreamactor.training import compiling, parallel
from dreamactor.training.compiling import compile_stage
from dreamactor.training.objective import Objective
from dreamactor.training.recipe import Recipe
from tests.training.helpers import encoded, named


@pytest.mark.parametrize("name", ["vae", "all"])
def test_each_shape_is_met_before_training(
    encoded_clips: Path, quick: Recipe, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, networks = encoded(encoded_clips)
    before = {key: value.clone() for key, value in networks.state_dict().items()}
    objective, stage, seen = Objective(parallel.start(), False), named(quick, name), set()

    def watch(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...], given: dict[str, torch.Tensor]) -> None:
        seen.add((arguments[0].shape, given["reference_latent"].shape if given else None))

    network = networks.vae.encoder if name == "vae" else networks.transformer
    network.register_forward_pre_hook(watch, with_kwargs=True)
    monkeypatch.setattr(compiling, "DRAWS", 1)
    lines = list(compile_stage(objective, networks, clips, stage))

    met = set(seen)
    assert len(lines) == len(met)
    for step in range(6):
        objective(networks, clips, stage, [0, step], 0.0)
    assert seen == met
    assert all(torch.equal(value, before[name]) for name, value in networks.state_dict().items())
    assert all(parameter.grad is None for parameter in networks.parameters())
