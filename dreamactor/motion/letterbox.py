"""A photo of any shape in the networks' picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamactor.motion.roi import Picture

BLUR = 1 / 16  # of the shorter side: how soft the filling around the photo is


@dataclass(frozen=True)
class Frame:
    """Where a photo lies in a height x width picture: `crop` = (top, left, height, width), even numbers of pixels."""

    height: int
    width: int
    crop: tuple[int, int, int, int]
    scale: float

    @classmethod
    def of(cls, picture: Picture, height: int, width: int) -> Frame:
        """The largest the whole photo can be, in the middle."""
        tall, wide = picture.shape[:2]
        scale = min(height / tall, width / wide)
        inner = (max(2, min(height, round(tall * scale / 2) * 2)), max(2, min(width, round(wide * scale / 2) * 2)))
        return cls(height, width, ((height - inner[0]) // 2, (width - inner[1]) // 2, *inner), scale)

    @property
    def offset(self) -> tuple[float, float]:
        """(x, y) of the photo's corner."""
        return float(self.crop[1]), float(self.crop[0])


def fit(picture: Picture, frame: Frame) -> NDArray[np.uint8]:
    """The photo in its frame, uint8 [H, W, 3]; around it its own edge, drawn out and blurred."""
    top, left, height, width = frame.crop
    shrinks = height < picture.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    inner = np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)
    bottom, right = frame.height - top - height, frame.width - left - width
    if not (top or left or bottom or right):
        return inner
    outer = cv2.copyMakeBorder(inner, top, bottom, left, right, cv2.BORDER_REPLICATE)
    blurred = cv2.GaussianBlur(outer, (0, 0), max(1.0, BLUR * min(frame.height, frame.width)))
    result = np.asarray(blurred, np.uint8)
    result[top : top + height, left : left + width] = inner
    return result
