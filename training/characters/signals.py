"""Smooth random signals over time: what moves heads, hands, brows and mouths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def wander(rng: np.random.Generator, frames: int, fps: float, rate: float, size: int = 1, hold: float = 0.4) -> Array:
    """[frames, size] of standard-normal targets, `rate` new ones a second, eased between, held `hold` of the time."""
    count = max(2, int(np.ceil(frames / fps * rate)) + 2)
    times = np.cumsum(rng.uniform(0.5, 1.5, count)) / rate
    times -= times[0] + rng.uniform(0, 1 / rate)
    targets = np.clip(rng.normal(size=(count, size)), -2, 2)
    now = np.arange(frames) / fps
    index = np.clip(np.searchsorted(times, now, side="right") - 1, 0, count - 2)
    phase = (now - times[index]) / (times[index + 1] - times[index])
    phase = np.clip((phase - hold) / (1 - hold), 0, 1)
    ease = (phase**3 * (10 - 15 * phase + 6 * phase**2))[:, None]
    return np.asarray(targets[index] * (1 - ease) + targets[index + 1] * ease)


@dataclass(frozen=True)
class Expression:
    """A face over T frames, each [T]: mouth_open 0..1, mouth_width -1..1 (pucker..stretch), smile -1..1,
    brow -1..1 (lowered..raised), furrow 0..1, lids 0..1 (closed..open), gaze_x, gaze_y -1..1."""

    mouth_open: Array
    mouth_width: Array
    smile: Array
    brow: Array
    furrow: Array
    lids: Array
    gaze_x: Array
    gaze_y: Array

    def values(self) -> Array:
        """[T, 8], in the order of the fields."""
        return np.stack([getattr(self, name) for name in self.__dataclass_fields__], axis=1)

    def at(self, frame: int) -> dict[str, float]:
        return {name: float(getattr(self, name)[frame]) for name in self.__dataclass_fields__}


def make_expression(rng: np.random.Generator, frames: int, fps: float) -> Expression:
    """Speech-like mouths (syllables with pauses) or slow opening, blinks, brows and glances."""
    kind = rng.random()
    if kind < 0.65:
        opening = _speech(rng, frames, fps)
    elif kind < 0.9:
        opening = np.clip(0.45 + 0.45 * wander(rng, frames, fps, 1.2)[:, 0], 0, 1)
    else:
        opening = np.clip(0.1 * wander(rng, frames, fps, 0.5)[:, 0], 0, 0.2)
    slow = wander(rng, frames, fps, 0.6, 4)
    quick = wander(rng, frames, fps, 1.2, 3, hold=0.7)
    return Expression(
        mouth_open=opening,
        mouth_width=np.clip(0.55 * quick[:, 0] - 0.2 * opening, -1, 1),
        smile=np.clip(0.5 * slow[:, 0] + 0.15, -1, 1),
        brow=np.clip(0.5 * slow[:, 1], -1, 1),
        furrow=np.clip(0.7 * slow[:, 2], 0, 1),
        lids=_blinks(rng, frames, fps) * np.clip(0.9 + 0.12 * slow[:, 3], 0.6, 1.05),
        gaze_x=np.clip(0.5 * quick[:, 1], -1, 1),
        gaze_y=np.clip(0.35 * quick[:, 2], -1, 1),
    )


def _speech(rng: np.random.Generator, frames: int, fps: float) -> Array:
    now = np.arange(frames) / fps
    opening = np.zeros(frames)
    time = -rng.uniform(0, 0.5)
    while time < frames / fps:
        if rng.random() < 0.18:
            time += rng.uniform(0.3, 0.9)  # a pause
            continue
        width, height = rng.uniform(0.09, 0.2), rng.beta(2, 1.6)
        opening = np.maximum(opening, height * np.exp(-0.5 * ((now - time) / width) ** 2))
        time += rng.uniform(0.22, 0.45)
    return np.clip(opening, 0, 1)


def _blinks(rng: np.random.Generator, frames: int, fps: float) -> Array:
    now = np.arange(frames) / fps
    lids = np.ones(frames)
    time = rng.uniform(-0.5, 2)
    while time < frames / fps:
        lids = np.minimum(lids, np.clip(np.abs(now - time) / 0.13 - 0.15, 0, 1))
        time += rng.uniform(0.8, 3.5)
    return lids
