"""A run: every stage is trained, one that was interrupted goes on bit for bit, its log and its sheets."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from dreamactor.networks import build, load
from dreamactor.presets import preset
from dreamactor.training.recipe import Recipe
from dreamactor.training.state import STATE
from dreamactor.training.train import CHECKPOINT, TEACHER, train
from tests.training.helpers import named, with_steps

NewRun = Callable[[str], Path]


def losses(folder: Path, stage: str) -> list[float]:
    with (folder / f"log_{stage}.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_trains_every_stage_and_leaves_a_checkpoint(legs: dict[str, Path], quick: Recipe) -> None:
    folder = legs["decoder"]
    trained, fresh = load(folder / CHECKPOINT, preset("tiny")), build(preset("tiny"), quick.seed)
    for part in ("vae", "pose_encoder", "face_encoder", "transformer"):
        old, new = (dict(getattr(n, part).named_parameters()) for n in (fresh, trained))
        assert any(not torch.equal(old[name].half(), new[name].half()) for name in old), part
    for stage in quick.stages:
        assert len(losses(folder, stage.name)) == stage.steps
    assert (folder / "sheet_final.png").stat().st_size > 1000
    assert (folder / "curves.png").is_file()


def test_latents_stay_when_only_the_decoder_changed(legs: dict[str, Path], tmp_path: Path, quick: Recipe) -> None:
    folder = shutil.copytree(legs["decoder"], tmp_path / "latents")
    latents = folder / "clips_train" / "latents" / "vae.txt"  # written when they are made
    made = latents.stat().st_mtime_ns

    again = replace(quick, stages=(*quick.stages, replace(named(quick, "all"), name="more")))
    train("tiny", folder, again, say=lambda _: None)

    assert len(losses(folder, "more"))
    assert latents.stat().st_mtime_ns == made


def test_every_sheet_comes_with_a_validation_loss(new_run: NewRun, quick: Recipe) -> None:
    folder, lines = new_run("checked"), []
    steps = {stage.name: 0 for stage in quick.stages} | {"body": 1, "all": 2}

    train("tiny", folder, with_steps(replace(quick, sheet_seconds=0.0), steps), say=lines.append)

    for stage, taken in (("body", [1]), ("all", [1, 2])):
        with (folder / f"validation_{stage}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["step"]) for row in rows] == taken
        assert all(0 < float(row["loss"]) < 10 and row["loss"] != row["training"] for row in rows)
        assert (folder / f"sheet_{stage}.png").is_file()
        assert any(f"{stage} 0/{taken[-1]} frames" in line for line in lines)


def test_a_guided_stage_leaves_all_but_the_transformer(legs: dict[str, Path]) -> None:
    folder = legs["guidance"]
    before, after = load(folder / TEACHER).state_dict(), load_file(folder / STATE)
    changed = {name for name in before if not torch.equal(before[name], after[f"net.{name}"])}
    assert changed
    assert all(name.startswith("transformer.") for name in changed)


def test_an_interrupted_run_goes_on_bit_for_bit(new_run: NewRun, quick: Recipe) -> None:
    """Stopped after every step of every stage."""
    whole, parts = new_run("whole"), new_run("parts")
    short = with_steps(quick, {stage.name: 2 for stage in quick.stages} | {"expression": 1, "body": 1, "face": 1})
    train("tiny", whole, short, say=lambda _: None)
    said: list[str] = []
    while not said or "all of the recipe's stages are done" not in said[-1]:
        train("tiny", parts, short, minutes=1e-6, say=said.append)
    assert len([line for line in said if "the same command goes on" in line]) >= 10
    a, b = (load_file(folder / STATE) for folder in (whole, parts))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_steps_that_are_taken_again_are_logged_once(new_run: NewRun, quick: Recipe) -> None:
    """Killed after it had logged what it had not saved: two stops, then the state of the first."""
    folder = new_run("run")
    train("tiny", folder, quick, minutes=1e-6, say=lambda _: None)
    saved = (folder / STATE).read_bytes()
    train("tiny", folder, quick, minutes=1e-6, say=lambda _: None)
    (folder / STATE).write_bytes(saved)
    train("tiny", folder, quick, minutes=1e-6, say=lambda _: None)
    with (folder / "log_vae.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [0, 1]


def test_what_comes_next_stands_on_what_the_checkpoint_has(legs: dict[str, Path]) -> None:
    state = load_file(legs["decoder"] / STATE)
    for name in state:
        if name.startswith(("net.vae.", "net.face_encoder.")):
            assert torch.equal(state[name], state[name.replace("net.", "ema.", 1)]), name
