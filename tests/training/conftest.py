"""Clips of the tiny size, rendered once; every run gets a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dreamactor.presets import preset
from dreamactor.training.assets import mocap_folder
from dreamactor.training.recipe import TINY, Recipe
from dreamactor.training.rendering import Order, prepare
from dreamactor.training.scene import Stage

QUICK = replace(TINY, clips=3, validation_clips=1, save_seconds=1e9, sheet_seconds=1e9)


@pytest.fixture(scope="session")
def quick() -> Recipe:
    return QUICK


@pytest.fixture(scope="session")
def stage() -> Stage:
    return Stage("train", mocap_folder(), 128, 128, 12)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared clips of the tiny preset."""
    folder, tiny = tmp_path_factory.mktemp("clips"), preset("tiny")
    for split, count in (("train", QUICK.clips), ("val", QUICK.validation_clips)):
        order = Order(folder / f"clips_{split}", split, count, mocap_folder(), (tiny.height, tiny.width), tiny.fps)
        prepare(order, 1)
    return folder


@pytest.fixture
def new_run(clips: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes run folders that have their clips already."""

    def make(name: str) -> Path:
        shutil.copytree(clips, tmp_path / name)
        return tmp_path / name

    return make
