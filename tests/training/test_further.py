"""Going on from a checkpoint: stages that last so many seconds, clips that come while it trains, what a GPU holds."""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamactor.cli import main
from dreamactor.errors import DreamActorError, InputError
from dreamactor.networks import build, load, save
from dreamactor.presets import preset
from dreamactor.training import rendering
from dreamactor.training.assets import mocap_folder
from dreamactor.training.clip_store import ClipStore
from dreamactor.training.decoder_stage import sampled_batch
from dreamactor.training.device_clips import Clips, Shelf
from dreamactor.training.expression_stage import expression_batch
from dreamactor.training.flow_stage import flow_batch, whole_batch
from dreamactor.training.optimizer import schedule
from dreamactor.training.parallel import Processes
from dreamactor.training.recipe import RECIPES, TINY_FURTHER, Recipe, Stage, recipe
from dreamactor.training.rendering import Background, Order, prepare
from dreamactor.training.state import STATE
from dreamactor.training.train import CHECKPOINT, Run, train
from dreamactor.training.vae_stage import vae_batch
from tests.training.helpers import CPU, encoded, named

NewRun = Callable[[str], Path]
TINY = preset("tiny")


@pytest.fixture
def further() -> Recipe:
    return replace(TINY_FURTHER, clips=3, validation_clips=1, start_clips=None, save_seconds=1e9, sheet_seconds=1e9)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights that no seed gives."""
    networks = build(TINY, 7)
    save(networks, tmp_path / "start")
    return tmp_path / "start"


def order(folder: Path, count: int) -> Order:
    return Order(folder / "clips_train", "train", count, mocap_folder(), (TINY.height, TINY.width), TINY.fps)


def test_a_run_goes_on_from_a_checkpoint_for_so_many_seconds(
    new_run: NewRun, further: Recipe, checkpoint: Path
) -> None:
    folder, lines = new_run("further"), []
    train("tiny", folder, further.lasting(0.6), say=lines.append, start=checkpoint)

    start, found = load(checkpoint).state_dict(), load(folder / CHECKPOINT).state_dict()
    assert all(torch.equal(start[name].half(), found[name].half()) for name in start if "face_encoder" in name)
    assert any(not torch.equal(start[name], found[name]) for name in start if "transformer" in name)
    for stage in further.stages:
        assert load(folder / f"{CHECKPOINT}_{stage.name}").preset == TINY
        assert (folder / f"validation_{stage.name}.csv").is_file()
    with (folder / f"log_{further.stages[-1].name}.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["seconds"]) >= 0.5  # rounded to tenths
    assert not any("the same command goes on" in line for line in lines)


def test_an_interrupted_stage_takes_the_seconds_that_are_left(
    new_run: NewRun, further: Recipe, checkpoint: Path
) -> None:
    folder = new_run("parts")
    long = replace(further, stages=(replace(named(further, "vae"), seconds=1000.0),))
    train("tiny", folder, long, minutes=1e-6, say=lambda _: None, start=checkpoint)
    run = Run(TINY, folder, long, mocap_folder(), lambda _: None)
    assert run.position.step == 1
    assert run.position.spent > 0
    state = (folder / STATE).read_bytes()
    short = replace(long, stages=(replace(long.stages[0], seconds=run.position.spent / 2),))
    train("tiny", folder, short, say=lambda _: None)
    assert load(folder / CHECKPOINT).preset == TINY
    assert (folder / STATE).read_bytes() != state
    with (folder / "log_vae.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1  # its time was over


def test_a_checkpoint_of_another_preset_is_refused(new_run: NewRun, further: Recipe, tmp_path: Path) -> None:
    save(build(replace(TINY, name="other"), 0), tmp_path / "other")
    with pytest.raises(InputError, match="'other' checkpoint, not 'tiny'"):
        train("tiny", new_run("refused"), further, start=tmp_path / "other")


def test_a_run_that_began_from_other_weights_is_not_gone_on_with(
    new_run: NewRun, further: Recipe, checkpoint: Path
) -> None:
    folder = new_run("begun")
    long = replace(further, stages=(replace(named(further, "vae"), seconds=1000.0),))
    train("tiny", folder, long, minutes=1e-6, say=lambda _: None)
    with pytest.raises(InputError, match=f"did not begin from {checkpoint}: leave --from out"):
        train("tiny", folder, long, minutes=1e-6, say=lambda _: None, start=checkpoint)
    (folder / STATE).unlink()
    for start in (checkpoint, None, checkpoint):
        train("tiny", folder, long, minutes=1e-6, say=lambda _: None, start=start)


def test_training_begins_before_all_clips_are_there(
    new_run: NewRun, further: Recipe, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four clips three are there; the last comes while it trains, and is encoded and drawn then."""
    folder, seen = new_run("rendered"), []
    monkeypatch.setattr("dreamactor.training.training_data.ENCODED", 1)
    monkeypatch.setattr("dreamactor.training.train.SAID", 1)
    flow = replace(named(further, "all"), seconds=1000.0)
    wanted = replace(further, stages=(flow,), clips=4, start_clips=3, workers=1)
    run = Run(TINY, folder, wanted, mocap_folder(), lambda _: None, checkpoint)
    progress = Stage.progress

    def until_all(stage: Stage, step: int, spent: float) -> float:
        assert run.clips.latents is not None
        seen.append(run.clips.latents.ready.tolist())
        return 1.0 if len(seen[-1]) == 4 else progress(stage, step, spent)

    monkeypatch.setattr(Stage, "progress", until_all)
    run.go(float("inf"))
    run.data.close()

    assert seen[0] == [0, 1, 2]
    assert seen[-1] == [0, 1, 2, 3]
    assert ClipStore(folder / "clips_train").count == 4


def test_clips_rendered_meanwhile_are_those_of_their_seeds(new_run: NewRun) -> None:
    folder, whole = new_run("background"), new_run("whole")
    background = Background(order(folder, 5), 2)
    background.go_on()
    for process in background.processes:
        process.join()
    assert background.go_on() == 5
    background.stop()
    expected = prepare(order(whole, 5), 1)
    assert np.array_equal(background.store.frames, expected.frames)
    assert all(np.array_equal(background.store.controls[k, :], expected.controls[k, :]) for k in range(5))


def test_a_folder_has_the_workers_of_one_process(new_run: NewRun) -> None:
    folder = new_run("twice")
    first, second = Background(order(folder, 4), 1), Background(order(folder, 4), 1)
    first.go_on()
    second.go_on()
    assert len(first.processes) == 1
    assert not second.processes
    first.stop()
    second.go_on()
    assert len(second.processes) == 1 or second.store.there.all()
    second.stop()
    assert not multiprocessing.active_children()


def test_a_worker_that_fails_is_told_of(new_run: NewRun) -> None:
    background = Background(order(new_run("fails"), 30), 1)
    background.go_on()
    background.processes[0].kill()
    background.processes[0].join()
    with pytest.raises(DreamActorError, match="has failed"):
        background.go_on()
    background.stop()


def test_several_processes_render_first(new_run: NewRun, further: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_run("several")
    monkeypatch.setattr("dreamactor.training.parallel.start", lambda: Processes(0, 2, CPU))
    with pytest.raises(InputError, match="render them first"):
        Run(TINY, folder, replace(further, clips=4, start_clips=1), mocap_folder(), lambda _: None)


def test_nothing_is_rendered_beside_where_all_clips_are_there(new_run: NewRun, further: Recipe) -> None:
    run = Run(TINY, new_run("there"), replace(further, start_clips=1), mocap_folder(), lambda _: None)
    assert run.data.background is None
    assert run.clips.pictures.ready.tolist() == [0, 1, 2]


def test_clips_are_rendered_by_a_command_of_its_own(new_run: NewRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = new_run("command")
    options = ["--preset", "tiny", "--recipe", "further", "--output", str(folder)]
    for wrong in (["--workers", "0"], ["--clips", "0", "--workers", "1"]):
        assert rendering.main([*options, *wrong]) == 2
        assert "at least one" in capsys.readouterr().err
    assert rendering.main([*options, "--clips", "4", "--workers", "1"]) == 0
    assert ClipStore(folder / "clips_train").count == 4
    assert ClipStore(folder / "clips_val").count == TINY_FURTHER.validation_clips


@pytest.mark.parametrize("room", [1, 10**6, 10**12])
def test_what_the_device_holds_is_what_the_disk_has(encoded_clips: Path, further: Recipe, room: int) -> None:
    """The same batches, whatever of it fits into the device's memory."""
    stage = named(further, "all")

    def batches(clips: Clips) -> list[torch.Tensor]:
        clips.sampled = Shelf({"video": np.zeros((3, 3, 16, 8, 8), np.float16)}, CPU, room)
        clips.sampled.add(np.arange(3))
        made = [
            *vae_batch(clips, np.random.default_rng(0), 2, 3),
            *expression_batch(clips, np.random.default_rng(1), 4, 3, 1.0),
        ]
        made += sampled_batch(clips, np.random.default_rng(2), 2, 3)
        flows = [
            flow_batch(clips, np.random.default_rng(seed), stage, frames, 3) for seed in range(3) for frames in (1, 3)
        ]
        flows.append(whole_batch(clips, np.array([0, 2]), 3, (5,)))
        return made + [value for batch in flows for value in vars(batch).values() if isinstance(value, torch.Tensor)]

    disk, device = encoded(encoded_clips)[0], encoded(encoded_clips, room)[0]
    assert (len(device.pictures.held) == 8) == (room == 10**12)
    assert bool(device.pictures.held) == (room > 1)
    for wanted, found in zip(batches(disk), batches(device), strict=True):
        assert torch.equal(wanted.nan_to_num(), found.nan_to_num())


def test_the_learning_rate_falls_with_the_share_of_a_stage_s_time() -> None:
    stage = Stage("all", 0, 1e-3, mix=((1, 1, 1.0),), trains=("transformer.",), seconds=100)
    assert [stage.progress(5, spent) for spent in (0.0, 50.0, 130.0)] == [0.0, 0.5, 1.0]
    assert replace(stage, seconds=0.0, steps=10).progress(5, 130.0) == 0.5
    assert schedule(0, 0.0, 0.5) == pytest.approx(1 / 60)
    assert [schedule(100, share, 0.5) for share in (0.3, 0.75, 1.0)] == pytest.approx([1.0, 0.55, 0.1])
    with pytest.raises(InputError, match="give one of them"):
        replace(stage, steps=10)


def test_timed_stages_are_fitted_to_a_time() -> None:
    fitted = recipe("puppet", "further").lasting(100)
    assert sum(stage.seconds for stage in fitted.stages) == pytest.approx(100)
    for seconds in (0.0, -5.0, float("nan")):
        with pytest.raises(InputError, match="a time above zero"):
            recipe("puppet", "further").lasting(seconds)
    with pytest.raises(InputError, match="none can be fitted"):
        recipe("puppet").lasting(100)
    with pytest.raises(InputError, match="whole, further"):
        recipe("puppet", "faster")


def test_the_command_line_has_it_all(
    new_run: NewRun,
    further: Recipe,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = new_run("command")
    monkeypatch.setitem(RECIPES["tiny"], "further", further)  # whose clips are there
    options = ["--recipe", "further", "--from", str(checkpoint), "--stage-seconds", "0.6", "--output", str(folder)]
    assert main(["train", "--preset", "tiny", *options]) == 0
    assert str(folder / CHECKPOINT) in capsys.readouterr().out
