"""Twenty-one landmarks of a hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamactor.motion.models import Model
from dreamactor.motion.pose import Float
from dreamactor.motion.roi import Picture, Region, angle_between, around, crop, to_picture
from dreamactor.motion.ssd import Detection

PRESENT = 0.5
PALM_SCALE, PALM_SHIFT = 2.6, -0.5  # from a palm to the square of the whole hand
HAND_SCALE, HAND_SHIFT = 2.0, -0.1  # from a hand's inner points to the same
INNER = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]
INDEX_PIP, MIDDLE_PIP, RING_PIP = 6, 10, 14


@dataclass(frozen=True)
class Hand:
    """One hand in one frame: points [21, 3] in pixels (z from the wrist), score 0..1, how right it looks 0..1."""

    points: Float
    score: float
    rightness: float
    next_region: Region


def region_of_palm(found: Detection) -> Region:
    """Where the landmark model should look for a detected palm."""
    wrist, middle = found.points[0], found.points[2]
    left, top, right, bottom = found.box
    side = float(max(right - left, bottom - top))
    palm = Region(float(left + right) / 2, float(top + bottom) / 2, side, angle_between(wrist, middle, np.pi / 2))
    return palm.shifted(0, PALM_SHIFT).enlarged(PALM_SCALE)


def region_of_points(points: Float) -> Region:
    """Where to look for a hand next, from its points now."""
    knuckles = (points[INDEX_PIP] + points[RING_PIP]) / 4 + points[MIDDLE_PIP] / 2
    angle = angle_between(points[0], knuckles, np.pi / 2)
    return around(points[INNER], 1.0, angle).shifted(0, HAND_SHIFT).enlarged(HAND_SCALE)


class HandModel:
    """Finds the landmarks of the hand in a region."""

    def __init__(self, models: Path) -> None:
        self._model = Model(models / "hand_landmark_full.tflite")

    def observe(self, picture: Picture, region: Region) -> Hand | None:
        """The hand in `region`, or None when there is none."""
        if not region.usable(*picture.shape[:2]):
            return None
        raw, score, rightness, _ = self._model.run(crop(picture, region, self._model.side))
        if score[0] < PRESENT:
            return None
        points = to_picture((raw.reshape(21, 3) / self._model.side).astype(np.float32), region)
        return Hand(points, float(score[0]), float(rightness[0]), region_of_points(points))
