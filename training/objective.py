"""The loss of every stage on the batches that a seed draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.pipeline.solver import schedule
from dreamactor.training.decoder_stage import sampled_batch, sampled_loss
from dreamactor.training.device_clips import Clips
from dreamactor.training.expression_stage import expression_batch, expression_loss
from dreamactor.training.flow_stage import Guidance, flow_batch, flow_loss, rollout_loss
from dreamactor.training.parallel import Processes
from dreamactor.training.recipe import Stage
from dreamactor.training.vae_stage import vae_batch, vae_loss


@dataclass
class Objective:
    """Draws batches and takes their loss, in one of several processes; `guidance` is needed by a guided stage."""

    processes: Processes
    bf16: bool
    guidance: Guidance | None = None

    def __call__(
        self, networks: Networks, clips: Clips, stage: Stage, seed: list[int], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on this process's share of the batch that `seed` draws, and the figures to log, which stay on the
        device. `progress` (0..1): how far through the stage."""
        device, rng = self.processes.device, np.random.default_rng(seed)
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)) + self.processes.rank)
        weights = np.array([weight for _, _, weight in stage.mix])
        frames, clips_of_it, _ = stage.mix[int(rng.choice(len(stage.mix), p=weights / weights.sum()))]
        count, share = self.processes.share(clips_of_it)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            if stage.sampled and rng.random() < stage.sampled:
                loss, logged = sampled_loss(networks, *sampled_batch(clips, rng, frames, count, share))
            elif stage.kind in ("vae", "decoder"):
                video, weight = vae_batch(clips, rng, frames, count, share)
                loss, logged = vae_loss(networks, video, weight, rng, generator, stage.latent_noise)
            elif stage.kind == "expression":
                loss, logged = expression_loss(networks, *expression_batch(clips, rng, frames, count, progress, share))
            else:
                batch = flow_batch(clips, rng, stage, frames, count, share)
                if stage.rollout:
                    steps = schedule("euler", stage.rollout, networks.preset.timestep_shift)
                    path = steps[: 1 + int(rng.integers(stage.rollout))]
                    loss, logged = rollout_loss(networks, batch, generator, path)
                else:
                    loss, logged = flow_loss(networks, batch, generator, self.guidance)
        return loss, {"frames": torch.tensor(float(frames)), **logged}
