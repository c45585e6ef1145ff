"""Thirty-three body landmarks of one person, in pixels and in metres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dreamactor.motion.head import Head, head_of_body
from dreamactor.motion.models import Model
from dreamactor.motion.pose import Float
from dreamactor.motion.roi import Picture, Region, angle_between, crop, to_picture
from dreamactor.motion.ssd import Detection, sigmoid

# indices of the model's landmarks (right and left are the person's)
NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR, MOUTH_LEFT, MOUTH_RIGHT = 0, 2, 5, 7, 8, 9, 10
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST = 11, 12, 13, 14, 15, 16
LEFT_PINKY, RIGHT_PINKY, LEFT_INDEX, RIGHT_INDEX = 17, 18, 19, 20
LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE = 23, 24, 25, 26, 27, 28
LEFT_TOE, RIGHT_TOE = 31, 32
POINTS, EXTRA = 33, 6
CENTER, RIM = 33, 34  # extra points: middle of the hips, and a point on the circle round the body

USED = (0, 1, 3, 4)  # of the model's outputs; the one between is a mask of the person, a quarter of its time
PRESENT = 0.5
MARGIN = 1.25
HEATMAP_WINDOW = 7
HEATMAP_SURE = 0.5


@dataclass(frozen=True)
class Body:
    """One person in one frame.

    points [33, 3] in pixels (z from the hips, in pixels, negative towards the camera), visible [33] and present [33] in
    0..1 (seen; inside the frame), world [33, 3] in metres from the middle of the hips, `score` that there is a person,
    `next_region` where to look in the next frame.
    """

    points: Float
    visible: Float
    present: Float
    world: Float
    score: float
    next_region: Region

    @cached_property
    def head(self) -> Head:
        """As far as it can be told without a face."""
        return head_of_body(self.points, self.world)


def region_of(center: Float, rim: Float) -> Region:
    """The turned square round a body, from the middle of its hips and a point on the circle round it."""
    size = 2 * float(np.hypot(*(rim[:2] - center[:2])))
    return Region(float(center[0]), float(center[1]), size * MARGIN, angle_between(center, rim, np.pi / 2))


def region_of_detection(found: Detection) -> Region:
    """Where the landmark model should look for a detected body."""
    return region_of(found.points[0], found.points[1])


class BodyModel:
    """Finds the landmarks of the person in a region."""

    def __init__(self, models: Path) -> None:
        self._model = Model(models / "pose_landmark_full.tflite", outputs=USED)

    def observe(self, picture: Picture, region: Region) -> Body | None:
        """The person in `region`, or None when there is none."""
        if not region.usable(*picture.shape[:2]):
            return None
        side = self._model.side
        raw, score, heatmap, world = self._model.run(crop(picture, region, side))
        if score[0] < PRESENT:
            return None
        rows = raw.reshape(POINTS + EXTRA, 5)
        own = (rows[:, :3] / side).astype(np.float32)
        own[:, :2] = _refine(own[:, :2], heatmap)
        points = to_picture(own, region)
        metres = world.reshape(POINTS + EXTRA, 3)[:POINTS].copy()
        c, s = np.cos(region.angle), np.sin(region.angle)
        metres[:, :2] = metres[:, :2] @ np.array([[c, s], [-s, c]], np.float32)
        seen = sigmoid(rows[:POINTS, 3:])
        return Body(
            points[:POINTS], seen[:, 0], seen[:, 1], metres, float(score[0]), region_of(points[CENTER], points[RIM])
        )


def _refine(points: Float, heatmap: Float) -> Float:
    """Moves each point [N, 2] (0..1) to the centre of mass of its heat map [S, S, N] nearby, where that is sure."""
    size, reach = heatmap.shape[0], HEATMAP_WINDOW // 2
    inside = ((points >= 0) & (points < 1)).all(axis=1)
    column, row = (np.where(inside, points.T, 0) * size).astype(int)
    padded = np.pad(heatmap, ((reach, reach), (reach, reach), (0, 0)), constant_values=-np.inf)
    steps = np.arange(HEATMAP_WINDOW)
    of = np.arange(len(points))[:, None, None]
    heat = sigmoid(padded[row[:, None, None] + steps[:, None], column[:, None, None] + steps, of])  # [N, 7, 7]
    total = heat.sum(axis=(1, 2))
    middle = np.stack([heat.sum(axis=1) @ steps, heat.sum(axis=2) @ steps], axis=1) / np.maximum(total, 1e-9)[:, None]
    refined = (np.stack([column, row], axis=1) - reach + middle) / size
    sure = inside & (heat.max(axis=(1, 2)) >= HEATMAP_SURE)
    return np.where(sure[:, None], refined, points).astype(np.float32)
