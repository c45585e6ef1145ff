"""Compiling before training: the networks in place, then every shape of batch that a stage draws, met once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from dreamactor.networks import Networks
from dreamactor.training.clips import Clips
from dreamactor.training.objective import Objective
from dreamactor.training.recipe import Stage

DRAWS = 12  # batches of a shape: with and without carried frames, with walks of each length


def compile_networks(networks: Networks) -> None:
    """Compiles the VAE and the transformer's block in place, the block once for every shape of batch, not once more for
    every block. The pose encoder would be compiled for more shapes than it is worth."""
    torch._dynamo.config.recompile_limit = 64
    for module in (networks.vae.encoder, networks.vae.decoder, *networks.transformer.blocks):
        module.compile(dynamic=False)


def rehearse(objective: Objective, networks: Networks, clips: Clips, stage: Stage) -> Iterator[str]:
    """Takes the losses of a stage's batches, of every shape, and forgets them; says of each what it takes, in words."""
    for entry in stage.mix:
        for count, share in enumerate(stage.references if stage.on_latents else (1.0,), 1):
            if not share:
                continue
            references = (float(count == 1), float(count == 2), float(count == 3))
            one = replace(stage, mix=(entry,), references=references, sampled=0.0)
            seconds = []
            for draw in range(DRAWS):
                began = time.monotonic()
                objective(networks, clips, one, [0, draw], 0.0)[0].backward()
                networks.zero_grad(set_to_none=True)
                if objective.processes.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.monotonic() - began)
            given = f", {count} references" if stage.on_latents else ""
            yield (
                f"{stage.name}, {entry[1]} x {entry[0]}{given}: {sum(seconds):.1f} s to compile, then "
                f"{min(seconds):.3f} s forward and back"
            )
