"""What a run draws its batches from: clips, rendered before or during training, their latents, and samples."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from dreamactor.errors import InputError
from dreamactor.networks import Networks
from dreamactor.training.clip_store import ClipStore
from dreamactor.training.decoder_stage import sample_clips
from dreamactor.training.device_clips import Clips
from dreamactor.training.latents import encode_clips, vae_fingerprint
from dreamactor.training.objective import Objective
from dreamactor.training.recipe import Recipe
from dreamactor.training.rendering import Background, Order, automatic_workers, orders, prepare

ROOM = 0.7  # share of a GPU's memory that clips may take
ENCODED = 64  # new clips are encoded this many at a time, at least


class TrainingData:
    """The training and validation clips of a run's folder, for networks under training.

    Raises as `rendering.prepare` does, and InputError where several processes would render while they train.
    """

    def __init__(self, folder: Path, networks: Networks, objective: Objective, recipe: Recipe, mocap: Path) -> None:
        self.networks, self.recipe = networks, recipe
        self.bf16, self.processes = objective.bf16, objective.processes
        self.device = self.processes.device
        self.background: Background | None = None
        order, validation = orders(folder, networks.preset, recipe, mocap)
        workers = recipe.workers or automatic_workers()
        with self.processes.main_first():
            order.open()  # refuses clips that do not fit before any is rendered
            self.validation = Clips(prepare(validation, workers), self.device, self._room())
            self.clips = Clips(self._rendered(order, workers), self.device, self._room())

    def _rendered(self, order: Order, workers: int) -> ClipStore:
        """The store of training clips; missing ones are rendered now or in the background."""
        first = self.recipe.start_clips
        if first is None or first >= order.count or order.open().there.all():
            return prepare(order, workers)
        if self.processes.count > 1:
            raise InputError(
                f"This recipe renders clips while it trains, and {self.processes.count} processes would each see other "
                "clips: start one, or render them first with `python -m dreamactor.training.rendering`."
            )
        self.background = Background(order, workers)
        return self.background.store

    def _room(self) -> int:
        """Bytes of the device's memory that arrays of clips may take."""
        return int(ROOM * torch.cuda.mem_get_info(self.device)[0]) if self.device.type == "cuda" else 0

    def follow(self, encode: bool = False) -> None:
        """Takes in the clips that were rendered meanwhile; with `encode` (the VAE is frozen) their latents too."""
        if self.background is not None and len(self.clips.pictures.ready) < self.clips.store.count:
            self.background.go_on()
            self.clips.follow()
        latents = self.clips.latents
        if encode and latents and len(self.clips.pictures.ready) - len(latents.ready) >= ENCODED:
            self._encode(self.clips, self.clips.vae)

    def wait(self) -> str:
        """Waits for the clips that training begins with. Returns a sentence on it, "" where all clips were there."""
        if self.background is None:
            return ""
        wanted, began, first = self.recipe.start_clips or 0, time.monotonic(), len(self.clips.pictures.ready)
        while len(self.clips.pictures.ready) < wanted:
            self.follow()
            time.sleep(0.05)
        ready, seconds = len(self.clips.pictures.ready), time.monotonic() - began
        return f"{ready} clips are there, {ready - first} of them came in {seconds:.0f} s"

    def freeze_vae(self, *clips: Clips) -> None:
        """Encodes `clips`, by default all, with the VAE as it is now."""
        vae = vae_fingerprint(self.networks)
        for chosen in clips or (self.clips, self.validation):
            self._encode(chosen, vae)

    def _encode(self, clips: Clips, vae: str) -> None:
        encode_clips(self.networks, clips, vae, self.bf16, self.processes, self._room())

    def sample(self) -> None:
        """Samples clips with the transformer as it is now."""
        for clips in (self.clips, self.validation):
            wanted = min(self.recipe.sampled_clips, clips.store.count)
            sample_clips(self.networks, clips, wanted, self.bf16, self.processes, self._room())

    def close(self) -> None:
        """Ends the workers that render in the background."""
        if self.background is not None:
            self.background.stop()
