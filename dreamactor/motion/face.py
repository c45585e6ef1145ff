"""The mesh of 468 points on a face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamactor.motion.head import Head, head_of_face
from dreamactor.motion.models import Model
from dreamactor.motion.pose import Float
from dreamactor.motion.roi import Picture, Region, angle_between, around, crop, to_picture
from dreamactor.motion.ssd import Detection, sigmoid

PRESENT = 0.5
MARGIN = 1.5
RIGHT_EYE_CORNER, LEFT_EYE_CORNER = 33, 263


@dataclass(frozen=True)
class Face:
    """One face in one frame: points [468, 3] in pixels (z in the same unit), score 0..1, and the head it belongs to."""

    points: Float
    score: float
    head: Head
    next_region: Region


def region_of_detection(found: Detection) -> Region:
    """Where the mesh model should look for a detected face."""
    left, top, right, bottom = (float(value) for value in found.box)
    side = max(right - left, bottom - top)
    angle = angle_between(found.points[0], found.points[1], 0.0)
    return Region((left + right) / 2, (top + bottom) / 2, side * MARGIN, angle)


def region_of_points(points: Float) -> Region:
    """Where to look for a face next, from its points now."""
    return around(points, MARGIN, angle_between(points[RIGHT_EYE_CORNER], points[LEFT_EYE_CORNER], 0.0))


class FaceModel:
    """Finds the mesh of the face in a region."""

    def __init__(self, models: Path) -> None:
        self._model = Model(models / "face_landmark.tflite")

    def observe(self, picture: Picture, region: Region) -> Face | None:
        """The face in `region`, or None when there is none."""
        if not region.usable(*picture.shape[:2]):
            return None
        raw, logit = self._model.run(crop(picture, region, self._model.side))
        score = float(sigmoid(logit.reshape(-1))[0])
        if score < PRESENT:
            return None
        points = to_picture((raw.reshape(468, 3) / self._model.side).astype(np.float32), region)
        return Face(points, score, head_of_face(points), region_of_points(points))
