"""The training loop: `train(preset, folder)` prepares clips, trains every stage and writes a checkpoint.

Every step's batch and noise come from (seed, stage, step) alone, so a run that was interrupted goes on bit for bit;
not so where stages last so many seconds or clips are rendered meanwhile. Under `torchrun` or `accelerate launch` each
process takes its share of every batch and the gradients are averaged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamactor.errors import DreamActorError, InputError
from dreamactor.networks import Networks, build, load, save
from dreamactor.networks.transformer import Transformer
from dreamactor.presets import Preset
from dreamactor.presets import preset as preset_named
from dreamactor.training import parallel, sheets
from dreamactor.training.assets import mocap_folder
from dreamactor.training.clips import Clips
from dreamactor.training.decoder_stage import sample_clips
from dreamactor.training.flow_stage import Guidance
from dreamactor.training.halves import multiplies_bfloat16
from dreamactor.training.journal import Journal
from dreamactor.training.latents import encode_clips, fingerprint, set_statistics
from dreamactor.training.objective import Objective
from dreamactor.training.optimizer import Muon, is_matrix
from dreamactor.training.recipe import FACE_MODULES, Recipe, Stage
from dreamactor.training.recipe import recipe as recipe_for
from dreamactor.training.rehearsal import compile_networks, rehearse
from dreamactor.training.rendering import Background, Order, automatic_workers, orders, prepare
from dreamactor.training.state import (
    MovingAverage,
    Position,
    load_state,
    optimizer_moments,
    restore_moments,
    save_state,
)
from dreamactor.training.store import ClipStore

CHECKPOINT, TEACHER = "checkpoint", "teacher"
CLIP_NORM = 1.0
WARMUP = 60
SAID = 25  # steps from one line of figures to the next
ROOM = 0.7  # share of a GPU's memory that clips may take
ENCODED = 64  # new clips are encoded when so many have come
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
    start: Path | str | None = None,
) -> Path:
    """Trains `preset` in the folder `out` and returns the checkpoint's folder; called again, it goes on.

    A new run begins with the weights of the checkpoint `start`, or with random ones. `minutes` stops early, with
    everything saved. Raises MissingDependency without motion data, InputError when `out` holds another run's state or
    `start` another preset's checkpoint, DreamActorError when the disk is full (the last good state stays).
    """
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    run = Run(preset_named(preset), Path(out), recipe or recipe_for(preset), mocap or mocap_folder(), say, start)
    try:
        run.go(deadline)
    finally:
        run.close()
    return run.folder / CHECKPOINT


@dataclass
class Optimisation:
    """A stage's parameters and their optimiser."""

    names: list[str]
    optimizer: Muon


class Run:
    """One training run: its networks, their moving average, where it is."""

    def __init__(
        self,
        preset: Preset,
        folder: Path,
        recipe: Recipe,
        mocap: Path,
        say: Callable[[str], None],
        start: Path | str | None = None,
    ) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        self.processes = parallel.start()
        self.device = self.processes.device
        if recipe.bf16 is False:
            torch.use_deterministic_algorithms(True, warn_only=True)
        elif self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        folder.mkdir(parents=True, exist_ok=True)
        networks = build(preset, recipe.seed) if start is None else load(start, preset)
        self.networks = networks.to(self.device)
        self.average = MovingAverage(self.networks, recipe.ema)
        self.bf16 = recipe.bf16 and multiplies_bfloat16(self.device)
        self.objective = Objective(self.processes, self.bf16)
        self.about = {"preset": self.networks.preset.to_dict(), "seed": recipe.seed}
        found = load_state(folder, self.networks, self.average, self.about)  # refuses another run's folder
        self.position, self.moments = found if found else (Position(), {})
        self.journal = Journal(folder)
        self.background: Background | None = None
        order, validation = orders(folder, self.networks.preset, recipe, mocap)
        workers = recipe.workers or automatic_workers()
        with self.processes.main_first():
            order.open()  # refuses clips that do not fit before any is rendered
            self.validation = Clips(prepare(validation, workers), self.device, self._room())
            self.clips = Clips(self._rendered(order, workers), self.device, self._room())
        if recipe.compiled:
            compile_networks(self.networks)
            self._rehearse()
        if self.background is not None:
            self._await_clips()
        self.validation.store.expression_statistics = self.clips.store.expression_statistics
        self.began = time.monotonic() - self.position.seconds
        self.saved = self.drawn = self.said = time.monotonic()

    def _rendered(self, order: Order, workers: int) -> ClipStore:
        """The store of training clips; what is missing of it is rendered first, or in the background."""
        if self.recipe.start_clips is None or self.recipe.start_clips >= order.count:
            return prepare(order, workers)
        if self.processes.count > 1:
            raise InputError(
                f"This recipe renders its clips while it trains, which {self.processes.count} processes would see "
                "differently: start one, or render them first with `python -m dreamactor.training.rendering`."
            )
        self.background = Background(order, workers)
        self.background.go_on()
        return self.background.store

    def _await_clips(self) -> None:
        wanted, began, first = self.recipe.start_clips or 0, time.monotonic(), len(self.clips.pictures.ready)
        while len(self.clips.pictures.ready) < wanted:
            self._follow()
            time.sleep(0.05)
        ready, seconds = len(self.clips.pictures.ready), time.monotonic() - began
        self.say(f"{ready} clips are there, {ready - first} of them came in {seconds:.0f} s")

    def _follow(self, encode: bool = False) -> None:
        """Takes in what has been rendered meanwhile."""
        if self.background is not None and len(self.clips.pictures.ready) < self.clips.store.count:
            self.background.go_on()
            self.clips.follow()
        latents = self.clips.latents
        if encode and latents and len(self.clips.pictures.ready) - len(latents.ready) >= ENCODED:
            self._encode(self.clips)

    def _room(self) -> int:
        """Bytes of the device's memory that what is drawn from may take."""
        return int(ROOM * torch.cuda.mem_get_info(self.device)[0]) if self.device.type == "cuda" else 0

    def _rehearse(self) -> None:
        self._encode(self.validation)
        for stage in self.recipe.stages[self.position.stage :]:
            self._optimisation(stage)  # which of the weights take gradients
            for line in rehearse(self.objective, self.networks, self.validation, stage):
                self.say(line)
                self._follow()

    def close(self) -> None:
        """Ends what runs beside."""
        if self.background is not None:
            self.background.stop()

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
            self._end_stage(index, stage)
        self._draw("final")

    def _end_stage(self, index: int, stage: Stage) -> None:
        if stage.seconds:
            self._validate(index, stage)
        self.position = Position(index + 1, 0, self.position.seconds)
        self.moments = {}
        if not stage.on_latents:  # what comes next stands on it, frozen: on what the checkpoint will have
            for prefix in stage.trains:
                self.average.copy_to(self.networks, prefix)
        if stage.name == "vae":
            set_statistics(self.networks, self.clips)
            self.average.reset(self.networks, "vae.")
        self._save({})
        if stage.seconds and self.processes.rank == 0:  # a stage that is soon done again, or left out
            save(self._averaged(), self.folder / f"{CHECKPOINT}_{stage.name}")

    def _train_stage(self, index: int, stage: Stage, deadline: float) -> bool:
        self.objective.guidance = None
        if stage.guided:
            self.objective.guidance = Guidance(self._teacher(), stage.guidance_scale, stage.face_scale)
        work = self._optimisation(stage)
        restore_moments(work.optimizer, work.names, self.moments)
        self.said = time.monotonic()
        entered = self.said - self.position.spent
        while (progress := stage.progress(self.position.step, self.processes.first(self.position.spent))) < 1:
            step = self.position.step
            for group in work.optimizer.param_groups:
                group["lr"] = stage.learning_rate * group["rate"] * schedule(step, progress, stage.decay)
            logged = self._step(index, stage, step, progress, work)
            self.average.update(self.networks, step, stage.trains)
            self.position.step += 1
            now = time.monotonic()
            self.position.seconds, self.position.spent = now - self.began, now - entered
            self._log(stage, step, logged)
            if step % SAID == 0:
                self._follow(stage.on_latents)
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
        return load(folder).transformer.to(self.device).requires_grad_(False)

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

    def _step(self, index: int, stage: Stage, step: int, progress: float, work: Optimisation) -> dict[str, Tensor]:
        seed = [self.recipe.seed, index, step]
        loss, logged = self.objective(self.networks, self.clips, stage, seed, progress)
        loss.backward()
        parameters = [p for group in work.optimizer.param_groups for p in group["params"]]
        self.processes.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        work.optimizer.step()
        work.optimizer.zero_grad(set_to_none=True)
        return logged

    def _freeze_vae(self) -> None:
        if self.clips.latents is None:
            self.say("encoding the clips with the trained VAE")
        for clips in (self.clips, self.validation):
            self._encode(clips)

    def _encode(self, clips: Clips) -> None:
        tag = fingerprint(self.networks)
        encode_clips(self.networks, clips, tag, self.bf16, self.processes, self._room())

    def _sample(self) -> None:
        self.say("sampling the clips with the trained transformer")
        for name in ("pose_encoder.", "transformer."):
            self.average.copy_to(self.networks, name)
        for clips in (self.clips, self.validation):
            wanted = min(self.recipe.sampled_clips, clips.store.count)
            sample_clips(self.networks, clips, wanted, self.bf16, self.processes, self._room())

    def _save(self, moments: dict[str, Tensor]) -> None:
        if self.processes.rank:
            return
        self.journal.flush()
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
            sheets.draw(self.folder, name, self._averaged(), self.validation, self.bf16)

    def _where(self, stage: Stage, step: int) -> str:
        of = f" ({self.position.spent:.0f} of {stage.seconds:.0f} s)" if stage.seconds else f"/{stage.steps}"
        return f"{stage.name} {step}{of}"

    def _log(self, stage: Stage, step: int, logged: dict[str, Tensor]) -> None:
        if self.processes.rank:
            return
        table = f"log_{stage.name}"
        seconds = round(self.position.seconds, 1)
        self.journal.add(table, {"stage": stage.name, "step": step, "seconds": seconds, **logged})
        if step % SAID == 0:
            last = self.journal.flush()[table]
            now, steps = time.monotonic(), min(step, SAID) or 1
            figures = " ".join(f"{key} {last[key]:.4g}" for key in logged)
            self.say(f"{self._where(stage, step)} {figures} {(now - self.said) / steps:.3f} s/step")
            self.said = now


def schedule(step: int, progress: float, decay: float) -> float:
    """The share of the stage's learning rate at a step: a short warm-up, level, over the last `decay` of the stage down
    to a tenth."""
    rise = min(1.0, (step + 1) / WARMUP)
    late = max(0.0, progress - (1 - decay)) / decay if decay else 0.0
    return rise * (1 - 0.9 * late)


def _among(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a parameter is of one of the modules, which are named by parts of its name."""
    return any(part in name for part in modules)
