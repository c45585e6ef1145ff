"""The training loop: `train(preset, folder)` prepares clips, trains every stage and writes a checkpoint.

Every step's batch and noise come from (seed, stage, step) alone, so a run that was interrupted goes on bit for bit.
Under `torchrun` or `accelerate launch` each process takes its share of every batch and the gradients are averaged.
"""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamactor.errors import DreamActorError
from dreamactor.networks import Networks, build, load, save
from dreamactor.networks.transformer import Transformer
from dreamactor.presets import Preset
from dreamactor.presets import preset as preset_named
from dreamactor.training import parallel, sheets
from dreamactor.training.assets import mocap_folder
from dreamactor.training.decoder_stage import sample_clips
from dreamactor.training.flow_stage import Guidance
from dreamactor.training.latents import encode_clips, set_statistics
from dreamactor.training.objective import Clips, Objective
from dreamactor.training.optimizer import Muon, is_matrix
from dreamactor.training.recipe import FACE_MODULES, Recipe, Stage
from dreamactor.training.recipe import recipe as recipe_for
from dreamactor.training.state import (
    MovingAverage,
    Position,
    load_state,
    optimizer_moments,
    restore_moments,
    save_state,
)
from dreamactor.training.store import prepare

CHECKPOINT, TEACHER = "checkpoint", "teacher"
CLIP_NORM = 1.0
WARMUP = 60
VALIDATION, VALIDATION_BATCHES = 1 << 40, 8  # a step that training never reaches; batches at each validation
FACE_RATE = 0.4
"""Share of the learning rate for the face attention. Until the network draws mouths there is nothing for it to learn,
and Muon's steps are as large for noise as for a signal: at the full rate its gates close before that."""


def train(
    preset: str,
    out: Path | str,
    recipe: Recipe | None = None,
    minutes: float | None = None,
    mocap: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains `preset` in the folder `out` and returns the checkpoint's folder; called again, it goes on.

    `minutes` stops early, with everything saved. Raises MissingDependency without motion data, InputError when `out`
    holds another run's state, DreamActorError when the disk is full (the last good state stays).
    """
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    run = Run(preset_named(preset), Path(out), recipe or recipe_for(preset), mocap or mocap_folder(), say)
    run.go(deadline)
    return run.folder / CHECKPOINT


@dataclass
class Optimisation:
    """A stage's parameters and their optimiser."""

    names: list[str]
    optimizer: Muon


class Run:
    """One training run: its networks, their moving average, where it is."""

    def __init__(self, preset: Preset, folder: Path, recipe: Recipe, mocap: Path, say: Callable[[str], None]) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        self.processes = parallel.start()
        self.device = self.processes.device
        if recipe.bf16 is False:
            torch.use_deterministic_algorithms(True, warn_only=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.networks = build(preset, recipe.seed).to(self.device)
        self.average = MovingAverage(self.networks, recipe.ema)
        self.objective = Objective(self.processes, recipe.bf16)
        self.about = {"preset": preset.to_dict(), "seed": recipe.seed}
        found = load_state(folder, self.networks, self.average, self.about)  # refuses another run's folder
        self.position, self.moments = found if found else (Position(), {})
        size = (preset.height, preset.width)
        with self.processes.main_first():
            self.clips, self.validation = (
                Clips(prepare(folder / f"clips_{split}", split, count, mocap, size, preset.fps, recipe.workers))
                for split, count in (("train", recipe.clips), ("val", recipe.validation_clips))
            )
        self.validation.store.expression_statistics = self.clips.store.expression_statistics
        if recipe.compiled:
            self._compile()
        self.began = time.monotonic() - self.position.seconds
        self.saved = self.drawn = time.monotonic()

    def _compile(self) -> None:
        """Compiles the convolutional networks and the transformer's block in place."""
        torch._dynamo.config.recompile_limit = 64
        for module in (self.networks.pose_encoder, self.networks.vae.encoder, self.networks.vae.decoder):
            module.compile(dynamic=False)
        _compile_blocks(self.networks.transformer)

    def go(self, deadline: float) -> None:
        """Trains until the recipe or the time is over."""
        if self.position.stage == len(self.recipe.stages):
            self.say(f"all of the recipe's stages are done; the checkpoint is {self.folder / CHECKPOINT}")
            return
        for index, stage in enumerate(self.recipe.stages):
            if index < self.position.stage:
                continue
            if stage.on_latents or stage.sampled:
                self._freeze_vae()
            if stage.sampled:
                self._sample()
            if not self._train_stage(index, stage, deadline):
                self.say(f"stopped in stage '{stage.name}' at step {self.position.step}; the same command goes on")
                return
            self.position = Position(index + 1, 0, self.position.seconds)
            self.moments = {}
            if not stage.on_latents:  # what comes next stands on it, frozen: on what the checkpoint will have
                for prefix in stage.trains:
                    self.average.copy_to(self.networks, prefix)
            if stage.name == "vae":
                set_statistics(self.networks, self.clips.store)
                self.average.reset(self.networks, "vae.")
            self._save({})
        self._draw("final")

    def _train_stage(self, index: int, stage: Stage, deadline: float) -> bool:
        self.objective.guidance = None
        if stage.guided:
            self.objective.guidance = Guidance(self._teacher(), stage.guidance_scale, stage.face_scale)
        work = self._optimisation(stage)
        restore_moments(work.optimizer, work.names, self.moments)
        while self.position.step < stage.steps:
            step = self.position.step
            for group in work.optimizer.param_groups:
                group["lr"] = stage.learning_rate * group["rate"] * schedule(step, stage)
            started = time.monotonic()
            logged = self._step(index, stage, step, work)
            self.average.update(self.networks, step, stage.trains)
            self.position.step += 1
            self.position.seconds = time.monotonic() - self.began
            self._log(stage, step, logged, time.monotonic() - started)
            now = time.monotonic()
            if now - self.drawn > self.recipe.sheet_seconds:
                self._validate(index, stage)
                self._draw(stage.name)
                self.drawn = time.monotonic()
            over = self.processes.agree(now > deadline)
            if over or now - self.saved > self.recipe.save_seconds:
                self._save(optimizer_moments(work.optimizer, work.names))
            if over:
                return False
        return True

    def _teacher(self) -> Transformer:
        """The averaged transformer that the stage began with, which begins with it too; kept to go on from."""
        folder = self.folder / TEACHER
        if self.position.step == 0:
            self.average.copy_to(self.networks, "transformer.")
            if self.processes.rank == 0:
                save(self.networks, folder, torch.float32)
            self.processes.wait()
        teacher = load(folder).transformer.to(self.device).requires_grad_(False)
        if self.recipe.compiled:
            _compile_blocks(teacher)
        return teacher

    def _optimisation(self, stage: Stage) -> Optimisation:
        kinds = {"matrices": (True, 1.0), "face": (True, FACE_RATE), "others": (False, 1.0)}
        chosen: dict[str, dict[str, torch.nn.Parameter]] = {kind: {} for kind in kinds}
        for name, parameter in self.networks.named_parameters():
            parameter.requires_grad_(_among(name, stage.trains))
            if parameter.requires_grad:
                matrix = "face" if _among(name, FACE_MODULES) else "matrices"
                chosen[matrix if is_matrix(name, parameter) else "others"][name] = parameter
        names = [name for group in chosen.values() for name in group]
        if not names:
            raise DreamActorError(f"Stage '{stage.name}' trains nothing: no parameter is named like {stage.trains}.")
        groups = [
            {"params": list(chosen[kind].values()), "matrix": matrix, "rate": rate}
            for kind, (matrix, rate) in kinds.items()
        ]
        return Optimisation(names, Muon(groups, stage.learning_rate, self.processes))

    def _step(self, index: int, stage: Stage, step: int, work: Optimisation) -> dict[str, float]:
        seed = [self.recipe.seed, index, step]
        loss, logged = self.objective(self.networks, self.clips, stage, seed, step / stage.steps)
        loss.backward()
        parameters = [p for group in work.optimizer.param_groups for p in group["params"]]
        self.processes.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        work.optimizer.step()
        work.optimizer.zero_grad(set_to_none=True)
        return logged

    def _freeze_vae(self) -> None:
        if self.clips.latents is None:
            tag = _fingerprint(self.networks)
            self.say("encoding the clips with the trained VAE")
            for clips in (self.clips, self.validation):
                clips.latents = encode_clips(self.networks, clips.store, tag, self.recipe.bf16, self.processes)

    def _sample(self) -> None:
        self.say("sampling the clips with the trained transformer")
        for name in ("pose_encoder.", "transformer."):
            self.average.copy_to(self.networks, name)
        for clips in (self.clips, self.validation):
            assert clips.latents is not None
            clips.sampled = sample_clips(
                self.networks, clips.store, clips.latents, self.recipe.sampled_clips, self.recipe.bf16, self.processes
            )

    def _save(self, moments: dict[str, Tensor]) -> None:
        if self.processes.rank:
            return
        save_state(self.folder, self.networks, self.average, moments, self.position, self.about)
        save(self._averaged(), self.folder / CHECKPOINT)
        self.saved = time.monotonic()

    def _averaged(self) -> Networks:
        networks = build(self.networks.preset, 0).to(self.device)
        self.average.copy_to(networks)
        return networks

    @torch.no_grad()
    def _validate(self, index: int, stage: Stage) -> None:
        """Logs the averaged networks' loss on validation clips and on training clips, the same draws each time: when
        the first stays behind the second, more clips help and more steps do not."""
        if self.processes.rank:
            return
        networks = self._averaged()
        draws = [[self.recipe.seed, index, VALIDATION, k] for k in range(VALIDATION_BATCHES)]

        def loss(clips: Clips) -> float:
            return float(np.mean([self.objective(networks, clips, stage, draw, 1.0)[1]["loss"] for draw in draws]))

        held_out, trained = loss(self.validation), loss(self.clips)
        self._write(f"validation_{stage.name}", {"step": self.position.step, "loss": held_out, "training": trained})
        self.say(f"{stage.name} {self.position.step}/{stage.steps} validation {held_out:.4g} training {trained:.4g}")

    def _draw(self, name: str) -> None:
        if self.processes.rank == 0:
            clips = self.validation
            sheets.draw(self.folder, name, self._averaged(), clips.store, clips.latents, self.recipe.bf16)

    def _log(self, stage: Stage, step: int, logged: dict[str, float], seconds: float) -> None:
        if self.processes.rank:
            return
        self._write(
            f"log_{stage.name}",
            {"stage": stage.name, "step": step, "seconds": round(self.position.seconds, 1), **logged},
        )
        if step % 25 == 0:
            figures = " ".join(f"{key} {value:.4g}" for key, value in logged.items())
            self.say(f"{stage.name} {step}/{stage.steps} {figures} {seconds:.2f} s/step")

    def _write(self, name: str, values: dict[str, float | str]) -> None:
        """Adds a row to a table of the run."""
        path = self.folder / f"{name}.csv"
        new = not path.is_file()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(values))
            if new:
                writer.writeheader()
            writer.writerow(values)


def _compile_blocks(transformer: Transformer) -> None:
    """Compiles the block in place: once for every shape of batch, not once more for every block."""
    for block in transformer.blocks:
        block.compile(dynamic=False)


def schedule(step: int, stage: Stage) -> float:
    """The share of the stage's learning rate at a step: a short warm-up, level, at the end down to a tenth."""
    rise = min(1.0, (step + 1) / WARMUP)
    tail = stage.steps * (1 - stage.decay)
    fall = 1.0 if step < tail else 1 - 0.9 * (step - tail) / max(1.0, stage.steps - tail)
    return rise * fall


def _among(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a parameter is of one of the modules, which are named by parts of its name."""
    return any(part in name for part in modules)


def _fingerprint(networks: Networks) -> str:
    """Of what latents depend on: the VAE's encoder and statistics."""
    digest = hashlib.sha256()
    for value in (*networks.vae.encoder.state_dict().values(), networks.vae.shift, networks.vae.scale):
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
