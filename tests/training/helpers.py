"""Stages by name, clips and their latents, a full disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from dreamactor.networks import Networks, build
from dreamactor.presets import preset
from dreamactor.training import parallel
from dreamactor.training.clip_store import ClipStore
from dreamactor.training.device_clips import Clips
from dreamactor.training.latents import encode_clips
from dreamactor.training.recipe import Recipe, Stage

CPU = torch.device("cpu")


def named(recipe: Recipe, name: str) -> Stage:
    return next(stage for stage in recipe.stages if stage.name == name)


def with_steps(recipe: Recipe, steps: dict[str, int]) -> Recipe:
    """The same recipe with other step counts by stage name."""
    return replace(recipe, stages=tuple(replace(s, steps=steps.get(s.name, s.steps)) for s in recipe.stages))


def train_clips(folder: Path, room: int = 0) -> Clips:
    """The training clips of a run's folder; with room, copied to memory as they are to a GPU's."""
    return Clips(ClipStore(folder / "clips_train"), CPU, room)


def encoded(folder: Path, room: int = 0) -> tuple[Clips, Networks]:
    """The training clips of a run's folder with their latents, by new networks."""
    clips, networks = train_clips(folder, room), build(preset("tiny"), 0)
    encode_clips(networks, clips, "new", False, parallel.start(), room)
    return clips, networks
