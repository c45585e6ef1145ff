"""Face crops: what the face motion encoder sees.

The box is an upright square that follows the head sphere, so that training can cut the same box out of a synthetic
frame from the head alone. Roll is left in: the sphere tells it too, and turning the crop would make the encoder's input
depend on a second landmark model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dreamactor.motion.pose import VISIBLE, Float, PoseSequence
from dreamactor.motion.roi import Picture, Region, crop
from dreamactor.presets import FACE_SIZE

FORWARD = 0.35  # head radii from the middle of the head to the middle of the box, to where the face looks
DOWN = 0.12  # and towards the chin
SIDE = 2.0  # side of the box in head radii


def face_boxes(poses: PoseSequence) -> Float:
    """[T, 4] left, top, right, bottom in pixels; NaN in frames without a head."""
    forward, down = -poses.head_rotation[..., :2, 2], poses.head_rotation[..., :2, 1]
    radius = poses.head_radius[:, None]
    middle = poses.head_center + (FORWARD * forward + DOWN * down) * radius
    boxes = np.concatenate([middle - radius * SIDE / 2, middle + radius * SIDE / 2], axis=1)
    return np.where(poses.head_confidence[:, None] >= VISIBLE, boxes, np.nan).astype(np.float32)


def crop_faces(frames: Sequence[Picture] | NDArray[np.uint8], face_boxes: Float) -> NDArray[np.uint8]:
    """Cuts the square `face_boxes` [T, 4] out of `frames` [T, H, W, 3]: uint8 [T, 224, 224, 3], black outside.

    A frame whose box is NaN repeats the crop before it (the first known crop at the start); all are black when no box
    is known.
    """
    crops = np.zeros((len(frames), FACE_SIZE, FACE_SIZE, 3), np.uint8)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(face_boxes).all(axis=1))
    for index in np.flatnonzero(known).tolist():
        left, top, right, bottom = (float(value) for value in face_boxes[index])
        region = Region((left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5, max(right - left, 4.0))
        crops[index] = crop(frames[index], region, FACE_SIZE)
    if known.any():
        nearest = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
        nearest[nearest < 0] = int(np.argmax(known))
        crops = crops[nearest]
    return crops
