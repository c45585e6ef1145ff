"""What somebody looks like from afar, so that a person found again is known from a stranger."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamactor.motion import body as bodies
from dreamactor.motion.landmarks import Seen
from dreamactor.motion.pose import Float
from dreamactor.motion.roi import Picture

Look: TypeAlias = NDArray[np.float32]
BINS = (6, 6, 4)  # hue, saturation, brightness
ALIKE = 0.5  # shared part of two histograms
TORSO = [bodies.LEFT_SHOULDER, bodies.RIGHT_SHOULDER, bodies.RIGHT_HIP, bodies.LEFT_HIP]


def appearance(picture: Picture, seen: Seen) -> Look:
    """Colour histogram (sums to 1) of the torso, or of the face where there is no body."""
    outline: Float
    if seen.body is not None:
        outline = seen.body.points[TORSO, :2]
    else:
        points = np.ascontiguousarray(seen.largest.points[:, :2])  # OpenCV takes no strided ones
        outline = cv2.convexHull(points)[:, 0].astype(np.float32)
    height, width = picture.shape[:2]
    low = np.clip(np.floor(outline.min(axis=0)), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(outline.max(axis=0)) + 1, low + 1, (width, height)).astype(int)
    part = np.ascontiguousarray(picture[low[1] : high[1], low[0] : high[0]])
    mask = np.zeros(part.shape[:2], np.uint8)
    hull = np.asarray(cv2.convexHull(np.rint(outline - low).astype(np.int32)), np.int32)
    cv2.fillConvexPoly(mask, hull, (255,))
    colors = cv2.cvtColor(part, cv2.COLOR_RGB2HSV)
    histogram = cv2.calcHist([colors], [0, 1, 2], mask, list(BINS), [0, 180, 0, 256, 0, 256])
    return np.asarray(histogram / max(1.0, float(histogram.sum())), np.float32)


def same_look(one: Look, other: Look) -> bool:
    """Whether two histograms are alike enough to be one person's."""
    return float(np.minimum(one, other).sum()) >= ALIKE
