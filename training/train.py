"""The training loop: `train(preset, folder)` prepares clips, trains every stage and writes a checkpoint.

A step's batch and noise come from (seed, stage, step) alone, so an interrupted run goes on bit for bit, unless stages
are timed or clips are rendered meanwhile. Under `torchrun` each process takes its share of every
batch and the gradients are averaged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dreamactor.checkpoints import WEIGHTS
from dreamactor.errors import InputError
from dreamactor.files import make_folder, sha256
from dreamactor.networks import Networks, build, load, save
from dreamactor.networks.transformer import Transformer
from dreamactor.presets import Preset
from dreamactor.presets import preset as preset_named
from dreamactor.training import parallel, sheets
from dreamactor.training.assets import mocap_folder
from dreamactor.training.compiling import compile_networks, compile_stage
from dreamactor.training.device_clips import Clips
from dreamactor.training.flow_stage import Guidance
from dreamactor.training.journal import Journal
from dreamactor.training.latents import set_statistics
from dreamactor.training.muon import multiplies_bfloat16
from dreamactor.training.objective import Objective
from dreamactor.training.optimizer import StageOptimizer
from dreamactor.training.recipe import Recipe, Stage
from dreamactor.training.recipe import recipe as recipe_for
from dreamactor.training.state import MovingAverage, Position, load_state, save_state
from dreamactor.training.training_data import TrainingData

CHECKPOINT, TEACHER = "checkpoint", "teacher"
SAID = 25  # steps from one line of figures to the next
VALIDATION, VALIDATION_BATCHES = 1 << 40, 8  # a step that training never reaches; batches at each validation


def train(
    preset: str,
    out: Path | str,
    recipe: Recipe | None = None,
    minutes: float | None = None,
    mocap: Path | None = None,
    say: Callable[[str], None] = print,
    start: Path | str | None = None,
) -> Path:
    """Trains `preset` in the folder `out` and returns the checkpoint's folder; called again, it goes on.

    A new run begins with the weights of the checkpoint `start`, or with random ones. `minutes` stops early, with
    everything saved. Raises MissingDependency without motion data, InputError when `out` cannot be written, or holds
    another run's state or that of one that did not begin from `start`, when `start` is another preset's checkpoint or
    `minutes` not above zero, DreamActorError when the disk is full or the training diverges (the last good state
    stays).
    """
    if minutes is not None and not minutes > 0:
        raise InputError(f"A run needs more than {minutes:g} minutes; leave --minutes out to train to the end.")
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    run = Run(preset_named(preset), Path(out), recipe or recipe_for(preset), mocap or mocap_folder(), say, start)
    try:
        run.go(deadline)
    finally:
        run.data.close()
    return run.folder / CHECKPOINT


class Run:
    """One training run: its networks, their moving average, its position and data."""

    def __init__(
        self,
        preset: Preset,
        folder: Path,
        recipe: Recipe,
        mocap: Path,
        say: Callable[[str], None],
        start: Path | str | None = None,
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.processes = parallel.start()
        self.say = say if self.processes.rank == 0 else lambda line: None
        self.device = self.processes.device
        if recipe.bf16 is False:
            torch.use_deterministic_algorithms(True, warn_only=True)
        elif self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        networks = build(preset, recipe.seed) if start is None else load(start, preset)
        make_folder(folder)
        self.networks = networks.to(self.device)
        self.average = MovingAverage(self.networks, recipe.ema)
        self.objective = Objective(self.processes, recipe.bf16 and multiplies_bfloat16(self.device))
        self.about = {
            "preset": self.networks.preset.to_dict(), "seed": recipe.seed, "stages": [s.name for s in recipe.stages],
        }  # fmt: skip
        found = load_state(folder, self.networks, self.average, self.about)  # refuses another run's folder
        begun = "" if start is None else sha256(Path(start) / WEIGHTS)
        self.position, self.moments = found if found else (Position(start=begun), {})
        if begun and self.position.start != begun:
            raise InputError(
                f"The run in {folder} did not begin from {start}: leave --from out to go on with it, or name another "
                "folder."
            )
        self.journal = Journal(folder)
        self.data = TrainingData(folder, self.networks, self.objective, recipe, mocap)
        self.clips, self.validation = self.data.clips, self.data.validation

    def _make_ready(self) -> None:
        self.data.follow()
        if self.recipe.compiled:
            compile_networks(self.networks)
            self.data.freeze_vae(self.validation)
            for stage in self.recipe.stages[self.position.stage :]:
                StageOptimizer(self.networks, stage, self.processes)  # which of the weights take gradients
                for line in compile_stage(self.objective, self.networks, self.validation, stage):
                    self.say(line)
                    self.data.follow()
        if waited := self.data.wait():
            self.say(waited)
        self.validation.store.expression_statistics = self.clips.store.expression_statistics
        self.saved = self.drawn = time.monotonic()
        self.began = self.saved - self.position.seconds

    def go(self, deadline: float) -> None:
        """Trains until the recipe or the time is over."""
        if self.position.stage == len(self.recipe.stages):
            self.say(f"all of the recipe's stages are done; the checkpoint is {self.folder / CHECKPOINT}")
            return
        self._make_ready()
        for index, stage in enumerate(self.recipe.stages):
            if index < self.position.stage:
                continue
            if stage.on_latents or stage.sampled:
                if self.clips.latents is None:
                    self.say("encoding the clips with the trained VAE")
                self.data.freeze_vae()
            if stage.sampled:
                self._sample()
            if not self._train_stage(index, stage, deadline):
                self.say(f"stopped in stage '{stage.name}' at step {self.position.step}; the same command goes on")
                return
            self._end_stage(index, stage)
        self._draw("final")

    def _end_stage(self, index: int, stage: Stage) -> None:
        if stage.seconds:
            self._validate(index, stage)
        self.position = replace(self.position, stage=index + 1, step=0, spent=0.0)
        self.moments = {}
        if not stage.on_latents:  # the next stages build on these weights, frozen: on those of the checkpoint
            for prefix in stage.trains:
                self.average.copy_to(self.networks, prefix)
        if stage.kind == "vae":
            set_statistics(self.networks, self.clips)
            self.average.reset(self.networks, "vae.")
        self._save({})
        if stage.seconds and self.processes.rank == 0:  # timed stages are short: one may be repeated, or left out
            save(self._averaged(), self.folder / f"{CHECKPOINT}_{stage.name}")

    def _train_stage(self, index: int, stage: Stage, deadline: float) -> bool:
        self.objective.guidance = None
        if stage.guided:
            self.objective.guidance = Guidance(self._teacher(), stage.guidance_scale, stage.face_scale)
        work = StageOptimizer(self.networks, stage, self.processes)
        work.restore(self.moments)
        self._open_log(stage)
        entered = time.monotonic() - self.position.spent
        while (progress := stage.progress(self.position.step, self.processes.first(self.position.spent))) < 1:
            step = self.position.step
            seed = [self.recipe.seed, index, step]
            loss, logged = self.objective(self.networks, self.clips, stage, seed, progress)
            loss.backward()
            work.step(step, progress)
            self.average.update(self.networks, step)
            self.position.step += 1
            now = time.monotonic()
            self.position.seconds, self.position.spent = now - self.began, now - entered
            self._log(stage, step, logged)
            if step % SAID == 0:
                self.data.follow(stage.on_latents)
            if now - self.drawn > self.recipe.sheet_seconds:
                self._validate(index, stage)
                self._draw(stage.name)
                self.drawn = time.monotonic()
            over = self.processes.agree(now > deadline)
            if over or now - self.saved > self.recipe.save_seconds:
                self._save(work.moments())
            if over:
                return False
        return True

    def _teacher(self) -> Transformer:
        """The averaged transformer that the stage begins with, saved for an interrupted stage to go on with."""
        folder = self.folder / TEACHER
        if self.position.step == 0:
            self.average.copy_to(self.networks, "transformer.")
            if self.processes.rank == 0:
                save(self.networks, folder, torch.float32)
            self.processes.wait()
        return load(folder).transformer.to(self.device).requires_grad_(False)

    def _sample(self) -> None:
        self.say("sampling the clips with the trained transformer")
        for name in ("pose_encoder.", "transformer."):
            self.average.copy_to(self.networks, name)
        self.data.sample()

    def _save(self, moments: dict[str, Tensor]) -> None:
        self.saved = time.monotonic()
        if self.processes.rank:
            return
        self.journal.flush()
        save_state(self.folder, self.networks, self.average, moments, self.position, self.about)
        save(self._averaged(), self.folder / CHECKPOINT)

    def _averaged(self) -> Networks:
        networks = build(self.networks.preset, 0).to(self.device)
        self.average.copy_to(networks)
        return networks

    @torch.no_grad()
    def _validate(self, index: int, stage: Stage) -> None:
        """Logs the averaged networks' loss on validation and on training clips, with the same draws each time. Where
        the first is much the higher, more clips help and more steps do not."""
        if self.processes.rank:
            return
        networks = self._averaged()
        draws = [[self.recipe.seed, index, VALIDATION, k] for k in range(VALIDATION_BATCHES)]

        def loss(clips: Clips) -> float:
            losses = [self.objective(networks, clips, stage, draw, 1.0)[1]["loss"] for draw in draws]
            return float(torch.stack(losses).mean())

        held_out, trained = loss(self.validation), loss(self.clips)
        self.journal.add(
            f"validation_{stage.name}", {"step": self.position.step, "loss": held_out, "training": trained}
        )
        self.journal.flush()
        self.say(f"{self._where(stage, self.position.step)} validation {held_out:.4g} training {trained:.4g}")

    def _draw(self, name: str) -> None:
        if self.processes.rank == 0:
            self.journal.flush()
            sheets.draw(self.folder, name, self._averaged(), self.validation, self.objective.bf16)

    def _where(self, stage: Stage, step: int) -> str:
        of = f" ({self.position.spent:.0f} of {stage.seconds:.0f} s)" if stage.seconds else f"/{stage.steps}"
        return f"{stage.name} {step}{of}"

    def _open_log(self, stage: Stage) -> None:
        """Drops the rows of steps after the last save, which are taken again."""
        self.said, self.said_at = time.monotonic(), self.position.step
        if self.processes.rank == 0:
            self.journal.rewind(f"log_{stage.name}", self.position.step)
            self.journal.rewind(f"validation_{stage.name}", self.position.step + 1)

    def _log(self, stage: Stage, step: int, logged: dict[str, Tensor]) -> None:
        if self.processes.rank:
            return
        table = f"log_{stage.name}"
        seconds = round(self.position.seconds, 1)
        self.journal.add(table, {"stage": stage.name, "step": step, "seconds": seconds, **logged})
        if step % SAID == 0:
            last = self.journal.flush()[table]
            now, steps = time.monotonic(), step + 1 - self.said_at
            figures = " ".join(f"{key} {last[key]:.4g}" for key in logged)
            self.say(f"{self._where(stage, step)} {figures} {(now - self.said) / steps:.3f} s/step")
            self.said, self.said_at = now, step + 1
