"""Turned squares in a picture: cut one out for a model, and bring the model's points back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamactor.motion.pose import Float

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Region:
    """A square of side `size` around (`x`, `y`), in pixels; its own up is the picture's up turned by `angle` radians.

    Positive angles turn clockwise as seen (y points down).
    """

    x: float
    y: float
    size: float
    angle: float = 0.0

    def enlarged(self, factor: float) -> Region:
        """The same square, `factor` times as large."""
        return Region(self.x, self.y, self.size * factor, self.angle)

    def shifted(self, x: float, y: float) -> Region:
        """Moved by (x, y) of its own sides, along its own axes."""
        c, s = np.cos(self.angle) * self.size, np.sin(self.angle) * self.size
        return Region(self.x + x * c - y * s, self.y + x * s + y * c, self.size, self.angle)

    def usable(self, height: int, width: int) -> bool:
        """Whether it is finite, of some size, and touches a picture of that height and width."""
        values = (self.x, self.y, self.size, self.angle)
        reach = 0.7 * self.size
        inside = -reach < self.x < width + reach and -reach < self.y < height + reach
        return bool(np.isfinite(values).all()) and 4 < self.size < 16 * max(height, width) and inside

    def matrix(self, side: int) -> NDArray[np.float64]:
        """[2, 3]: crop pixels of a `side` x `side` picture to pixels of the whole picture."""
        step = self.size / side
        c, s = np.cos(self.angle) * step, np.sin(self.angle) * step
        half = (side - 1) / 2
        return np.array([[c, -s, self.x - c * half + s * half], [s, c, self.y - s * half - c * half]])


def crop(picture: Picture, region: Region, side: int) -> Picture:
    """Cuts `region` out of `picture` [H, W, 3]: uint8 [side, side, 3]; black outside the picture."""
    matrix = region.matrix(side)
    shrink = int(region.size / side)
    if shrink >= 2:  # averaged first: plain sampling would alias
        reach = region.size * 0.75 + shrink
        left, top = (max(0, int(np.floor(v - reach)) // shrink * shrink) for v in (region.x, region.y))
        right, bottom = int(np.ceil(region.x + reach)), int(np.ceil(region.y + reach))
        part = picture[top:bottom, left:right]
        width, height = part.shape[1] // shrink, part.shape[0] // shrink
        if width and height:
            part = part[: height * shrink, : width * shrink]
            picture = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
            matrix[:, 2] -= (left, top)
            matrix = matrix / shrink
            matrix[:, 2] -= 0.5 - 0.5 / shrink
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    result: Any = cv2.warpAffine(picture, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(result, np.uint8)


def to_picture(points: Float, region: Region) -> Float:
    """Points in a region's own unit square ([..., 2 or 3]; 0..1, z in the same unit) to pixels of the picture."""
    c, s = np.cos(region.angle) * region.size, np.sin(region.angle) * region.size
    x, y = points[..., 0] - 0.5, points[..., 1] - 0.5
    parts = [region.x + c * x - s * y, region.y + s * x + c * y]
    if points.shape[-1] == 3:
        parts.append(points[..., 2] * region.size)
    return np.stack(parts, axis=-1).astype(np.float32)


def around(points: Float, scale: float, angle: float) -> Region:
    """The square, turned by `angle`, `scale` times as large as what encloses `points` [N, 2] in that direction."""
    c, s = np.cos(angle), np.sin(angle)
    turned = points[:, :2] @ np.array([[c, -s], [s, c]])
    low, high = turned.min(axis=0), turned.max(axis=0)
    x, y = (low + high) / 2
    return Region(float(c * x - s * y), float(s * x + c * y), float((high - low).max()) * scale, angle)


def angle_between(start: Float, end: Float, upright: float) -> float:
    """By how much (radians, clockwise, -pi..pi) a picture is turned whose line start -> end should point `upright`.

    `upright` is the line's direction when the picture stands, in radians anticlockwise from the right.
    """
    turn = upright - np.arctan2(-(end[1] - start[1]), end[0] - start[0])
    return float(turn - 2 * np.pi * np.floor((turn + np.pi) / (2 * np.pi)))
