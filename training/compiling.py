"""Compiling before training: the networks in place, then a stage's loss for every shape of batch that it draws."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from dreamactor.networks import Networks
from dreamactor.training.device_clips import Clips
from dreamactor.training.objective import Objective
from dreamactor.training.recipe import Stage

DRAWS = 12  # batches of a shape: with and without carried frames, with walks of each length


def compile_networks(networks: Networks) -> None:
    """Compiles the VAE and the transformer's blocks in place; all blocks share what is compiled for a shape of batch.
    The pose encoder meets more shapes than compiling it would pay for."""
    torch._dynamo.config.recompile_limit = 64
    for module in (networks.vae.encoder, networks.vae.decoder, *networks.transformer.blocks):
        module.compile(dynamic=False)


def compile_stage(objective: Objective, networks: Networks, clips: Clips, stage: Stage) -> Iterator[str]:
    """Takes the stage's loss, forward and back, on batches of every shape that it draws, so that each is compiled; the
    gradients are dropped. Yields a sentence on the time that each shape took."""
    for name, one in _shapes(stage):
        seconds = []
        for draw in range(DRAWS):
            began = time.monotonic()
            objective(networks, clips, one, [0, draw], 0.0)[0].backward()
            networks.zero_grad(set_to_none=True)
            if objective.processes.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.monotonic() - began)
        yield f"{name}: {sum(seconds):.1f} s to compile, then {min(seconds):.3f} s forward and back"


def _shapes(stage: Stage) -> Iterator[tuple[str, Stage]]:
    """For each shape of batch that a stage draws: its name, and a copy of the stage that draws only it."""
    for frames, count, _ in stage.mix:
        name, one = f"{stage.name}, {count} x {frames}", replace(stage, mix=((frames, count, 1.0),), sampled=0.0)
        if not stage.on_latents:
            yield name, one
            continue
        for number, share in enumerate(stage.references, 1):
            if share:
                alone = (float(number == 1), float(number == 2), float(number == 3))
                yield f"{name}, {number} references", replace(one, references=alone)
