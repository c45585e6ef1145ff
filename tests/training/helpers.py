"""Stages by name, and latents of clips."""

from __future__ import annotations

from pathlib import Path

from dreamactor.networks import Networks, build
from dreamactor.presets import preset
from dreamactor.training import parallel
from dreamactor.training.latents import LatentStore, encode_clips
from dreamactor.training.recipe import Recipe, Stage
from dreamactor.training.store import ClipStore


def named(recipe: Recipe, name: str) -> Stage:
    return next(stage for stage in recipe.stages if stage.name == name)


def encoded(folder: Path) -> tuple[ClipStore, LatentStore, Networks]:
    """The training clips of a run's folder and their latents, by new networks."""
    store, networks = ClipStore(folder / "clips_train"), build(preset("tiny"), 0)
    return store, encode_clips(networks, store, "new", False, parallel.start()), networks
