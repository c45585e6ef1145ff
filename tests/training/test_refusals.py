"""What a run cannot go on with: one sentence, and the last good state is kept."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreamactor.errors import DreamActorError, InputError
from dreamactor.networks import load
from dreamactor.presets import preset
from dreamactor.training.assets import mocap_folder
from dreamactor.training.clip_store import ClipStore
from dreamactor.training.recipe import Recipe, recipe
from dreamactor.training.state import STATE
from dreamactor.training.train import CHECKPOINT, Run, train
from tests.disk import full_disk

NewRun = Callable[[str], Path]


def losses(folder: Path, stage: str) -> list[float]:
    with (folder / f"log_{stage}.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_folder_of_another_run_is_refused_with_its_clips(new_run: NewRun, quick: Recipe) -> None:
    folder = new_run("run")
    train("tiny", folder, quick, minutes=1e-6)
    with pytest.raises(InputError, match="another run"):
        train("puppet", folder, minutes=1e-6)
    (folder / STATE).unlink()
    with pytest.raises(InputError, match="holds other clips"):
        train("puppet", folder, minutes=1e-6)
    assert ClipStore(folder / "clips_train").height == preset("tiny").height


def test_a_state_of_another_run_is_refused(new_run: NewRun, quick: Recipe, tmp_path: Path) -> None:
    folder = new_run("run")
    train("tiny", folder, quick, minutes=1e-6)
    with pytest.raises(InputError, match="seed 0"):
        train("tiny", folder, replace(quick, seed=1), minutes=1e-6)
    save_file({"a": torch.zeros(1)}, tmp_path / "else.safetensors")
    for content in (b"nothing", (tmp_path / "else.safetensors").read_bytes()):
        (folder / STATE).write_bytes(content)
        with pytest.raises(InputError, match="delete it"):
            train("tiny", folder, quick, minutes=1e-6)


def test_a_state_of_another_recipe_is_refused_and_a_longer_one_goes_on(
    legs: dict[str, Path], tmp_path: Path, quick: Recipe
) -> None:
    folder = shutil.copytree(legs["guidance"], tmp_path / "run")
    state = (folder / STATE).read_bytes()
    with pytest.raises(InputError, match="another recipe: its stages began with vae, expression, body"):
        train("tiny", folder, replace(quick, stages=quick.stages[:1] + quick.stages[2:]))
    with pytest.raises(InputError, match="another recipe"):
        train("tiny", folder, replace(quick, stages=quick.stages[:2]))
    assert (folder / STATE).read_bytes() == state
    train("tiny", folder, quick, minutes=1e-6)
    assert len(losses(folder, "rollout")) == 1


def test_a_preset_that_is_sampled_otherwise_goes_on(new_run: NewRun, quick: Recipe) -> None:
    folder, tiny = new_run("run"), preset("tiny")
    train("tiny", folder, quick, minutes=1e-6)
    other = replace(tiny, solver="euler", steps=tiny.steps + 1, guidance_scale=1.0)
    assert Run(other, folder, quick, mocap_folder(), lambda _: None).position.step == 1


def test_a_diverged_training_keeps_the_last_good_state(new_run: NewRun, quick: Recipe) -> None:
    folder = new_run("run")
    train("tiny", folder, quick, minutes=1e-6)
    good = (folder / STATE).read_bytes()
    wild = replace(quick, stages=(replace(quick.stages[0], learning_rate=1e30), *quick.stages[1:]))
    with pytest.raises(DreamActorError, match="diverged"):
        train("tiny", folder, wild)
    assert (folder / STATE).read_bytes() == good
    assert all(bool(value.isfinite().all()) for value in load(folder / CHECKPOINT).state_dict().values())


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_a_run_without_time_is_refused(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(InputError, match="needs more than"):
        train("tiny", tmp_path / "run", minutes=minutes)
    assert not (tmp_path / "run").exists()


def test_a_preset_without_a_recipe_is_told_which_have_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="puppet, tiny"):
        train("m1", tmp_path)


def test_a_full_disk_keeps_the_last_good_state(new_run: NewRun, quick: Recipe) -> None:
    folder = new_run("run")
    train("tiny", folder, quick, minutes=1e-6)
    good, weights = (folder / STATE).read_bytes(), (folder / CHECKPOINT / "model.safetensors").read_bytes()
    with full_disk(100_000), pytest.raises(DreamActorError, match="last good one is kept"):
        train("tiny", folder, quick, minutes=1e-6)
    assert (folder / STATE).read_bytes() == good
    assert (folder / CHECKPOINT / "model.safetensors").read_bytes() == weights
    assert not list(folder.glob(".state*"))
    train("tiny", folder, quick, minutes=1e-6)


def test_clips_that_do_not_fit_the_disk_are_refused_before_any_is_rendered(tmp_path: Path) -> None:
    with pytest.raises(DreamActorError, match="The clips need"):
        train("puppet", tmp_path, replace(recipe("puppet"), clips=2_000_000_000))

    assert not list(tmp_path.rglob("*.bin"))


def test_clips_that_are_there_outlive_a_refusal(new_run: NewRun, quick: Recipe) -> None:
    folder = new_run("refused")

    with pytest.raises(DreamActorError, match="The clips need"):
        train("tiny", folder, replace(quick, clips=2_000_000_000))

    assert ClipStore(folder / "clips_train").count == quick.clips
