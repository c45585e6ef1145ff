"""Clips of the tiny size, rendered once; every run gets a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreamactor.presets import preset
from dreamactor.training.assets import mocap_folder
from dreamactor.training.characters.scene import Scenes
from dreamactor.training.recipe import TINY, Recipe
from dreamactor.training.rendering import Order, prepare
from dreamactor.training.train import train
from tests.training.helpers import encoded

QUICK = replace(TINY, clips=3, validation_clips=1, save_seconds=1e9, sheet_seconds=1e9)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are ten times slower where torch's threads wait for cores that other tests have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def quick() -> Recipe:
    return QUICK


@pytest.fixture(scope="session")
def scenes() -> Scenes:
    return Scenes("train", mocap_folder(), 128, 128, 12)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared clips of the tiny preset."""
    folder, tiny = tmp_path_factory.mktemp("clips"), preset("tiny")
    for split, count in (("train", QUICK.clips), ("val", QUICK.validation_clips)):
        order = Order(folder / f"clips_{split}", split, count, mocap_folder(), (tiny.height, tiny.width), tiny.fps)
        prepare(order, 1)
    return folder


@pytest.fixture(scope="session")
def encoded_clips(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the training clips' latents, for `helpers.encoded`; not to be written to."""
    folder = Path(shutil.copytree(clips, tmp_path_factory.mktemp("encoded") / "run"))
    encoded(folder)
    return folder


@pytest.fixture(scope="package")
def legs(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run through all stages as it was after some of them, by the last one's name; not to be written to."""
    folder, found = tmp_path_factory.mktemp("legs") / "run", {}
    shutil.copytree(clips, folder)
    names = [stage.name for stage in QUICK.stages]
    for name in ("guidance", "rollout", "decoder"):
        train("tiny", folder, replace(QUICK, stages=QUICK.stages[: names.index(name) + 1]), say=lambda _: None)
        found[name] = Path(shutil.copytree(folder, folder.with_name(name)))
    return found


@pytest.fixture
def new_run(clips: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes run folders that have their clips already."""

    def make(name: str) -> Path:
        shutil.copytree(clips, tmp_path / name)
        return tmp_path / name

    return make
