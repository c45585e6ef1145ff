"""Runs the pipeline on motion inputs: to record what each network is given, and to see the video it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dreamactor.engines.session import Array, Session
from dreamactor.motion.prepare import MotionInputs
from dreamactor.pipeline.denoise import denoise
from dreamactor.pipeline.options import Options
from dreamactor.pipeline.prepare import encode
from dreamactor.presets import Preset

SEED = 7


class Recorder:
    """A session that remembers what it was given."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.name, self.inputs, self.outputs = session.name, session.inputs, session.outputs
        self.feeds: list[dict[str, Array]] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.feeds.append({name: np.array(value) for name, value in inputs.items()})
        return self._session.run(inputs)

    def close(self) -> None:
        self._session.close()


def animate(sessions: Mapping[str, Session], preset: Preset, inputs: MotionInputs, options: Options) -> Array:
    """The frames [T,H,W,3] of every segment, decoded without compression: the same seed, the same frames."""
    clip = encode(sessions, preset, inputs)
    frames = []
    for denoised in denoise(sessions["denoiser"], preset, clip, options):
        if denoised.latent is not None:
            video = sessions["vae_decoder"].run({"latent": denoised.latent[None]})["video"][0]
            frames.append(video.transpose(1, 2, 3, 0))
    return np.concatenate(frames)


def record(
    sessions: Mapping[str, Session], preset: Preset, clips: Sequence[MotionInputs], options: Options, count: int
) -> dict[str, list[dict[str, Array]]]:
    """`count` inputs of each network from animating `clips`, drawn over clips and timesteps alike."""
    recorders = {name: Recorder(session) for name, session in sessions.items()}
    for inputs in clips:
        animate(recorders, preset, inputs, options)
    draw = np.random.default_rng(SEED)
    return {name: _choose(draw, recorder.feeds, count) for name, recorder in recorders.items()}


def _choose(draw: np.random.Generator, feeds: list[dict[str, Array]], count: int) -> list[dict[str, Array]]:
    indices = draw.permutation(len(feeds))[:count]
    return [feeds[index] for index in sorted(indices)]
