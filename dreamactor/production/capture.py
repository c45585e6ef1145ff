"""Runs the pipeline on motion inputs: to record what each network is given, and to see the video it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

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
    sessions: Mapping[str, Session], preset: Preset, takes: Sequence[tuple[MotionInputs, Options]], count: int
) -> dict[str, list[dict[str, Array]]]:
    """`count` inputs of each network from animating each clip with its options, of every clip as many, drawn over its
    segments and timesteps alike."""
    draw, found = np.random.default_rng(SEED), dict[str, list[list[dict[str, Array]]]]()
    for inputs, options in takes:
        recorders = {name: Recorder(session) for name, session in sessions.items()}
        animate(recorders, preset, inputs, options)
        for name, recorder in recorders.items():
            feeds = [recorder.feeds[index] for index in draw.permutation(len(recorder.feeds))]
            found.setdefault(name, []).append(feeds)
    return {name: _in_turn(feeds, count) for name, feeds in found.items()}


def _in_turn(feeds: list[list[dict[str, Array]]], count: int) -> list[dict[str, Array]]:
    """One of each clip in turn, until there are `count`."""
    rounds = zip_longest(*feeds)
    return [feed for each in rounds for feed in each if feed is not None][:count]
