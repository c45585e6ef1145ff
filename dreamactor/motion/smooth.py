"""Paths over time: gaps filled, jitter taken out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dreamactor.motion.pose import Float

Mask = NDArray[np.bool_]

MIN_CUTOFF = 1.6  # Hz that pass when nothing moves
SPEED_CUTOFF = 1.2  # Hz more for each unit a second


def fill(values: Float, good: Mask, longest: float = np.inf, hold: bool = True) -> tuple[Float, Mask]:
    """Interpolates `values` [T, ...] linearly where `good` [T] is False, in gaps of at most `longest` frames.

    Before the first and after the last good frame the nearest is held, if `hold`. Returns the values and which are
    good now.
    """
    known = np.flatnonzero(good)
    if len(known) in (0, len(good)):
        return values, good
    frames = np.arange(len(good))
    after = np.searchsorted(known, frames)
    left, right = known[np.maximum(after - 1, 0)], known[np.minimum(after, len(known) - 1)]
    inside = (frames > known[0]) & (frames < known[-1])
    usable = good | (inside & (right - left - 1 <= longest)) | (~inside & hold)
    share = np.where(right > left, (frames - left) / np.maximum(right - left, 1), 0.0)
    share = share.reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
    filled = values[left] * (1 - share) + values[right] * share
    keep = (usable & ~good).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(keep, filled, values).astype(np.float32), usable


def smooth(values: Float, good: Mask, fps: float, unit: float) -> Float:
    """Takes jitter out of `values` [T, D], within each run of `good` frames, without delay.

    A One-Euro filter (Casiez, Roussel and Vogel, CHI 2012: the faster a path moves, the less it is smoothed), run
    forwards and backwards and averaged. `unit` is the length in which speed is measured.
    """
    result = values.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(np.int8), [0]])))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        run = values[start:stop].astype(np.float64)
        result[start:stop] = (_one_euro(run, fps, unit) + _one_euro(run[::-1], fps, unit)[::-1]) / 2
    return result


def _one_euro(values: NDArray[np.float64], fps: float, unit: float) -> NDArray[np.float64]:
    result = values.copy()
    speed = np.zeros(values.shape[1])
    steady = _share(1.0, fps)
    for index in range(1, len(values)):
        speed = speed + steady * ((values[index] - values[index - 1]) * fps / unit - speed)
        share = _share(MIN_CUTOFF + SPEED_CUTOFF * float(np.linalg.norm(speed)), fps)
        result[index] = result[index - 1] + share * (values[index] - result[index - 1])
    return result


def _share(cutoff: float, fps: float) -> float:
    """Weight of the newest value in a first-order low-pass."""
    step = 2 * np.pi * cutoff / fps
    return step / (step + 1)


def rotations(matrices: Float) -> Float:
    """The rotations nearest to `matrices` [T, 3, 3]."""
    u, _, vt = np.linalg.svd(matrices)
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return np.asarray(u @ vt, np.float32)
