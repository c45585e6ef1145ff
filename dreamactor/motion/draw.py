"""Control maps: the skeleton as coloured lines and the head as a coloured sphere (DreamActor-M1, section 3.2).

Inference and training draw with this code and no other, so that what the pose encoder learned is what it meets.
Lines are as wide as a fixed share of the shorter side; drawing is anti-aliased at sub-pixel positions, far limbs first.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from dreamactor.motion.pose import HAND_BONES, LIMBS, VISIBLE, Float, PoseSequence
from dreamactor.motion.roi import Picture

LIMB_WIDTH = 1 / 52  # of the shorter side: 2.5 pixels at 128
HAND_WIDTH = 1 / 128
SHIFT = 4  # fractional bits of the coordinates given to OpenCV
FAR = 4.0  # points further off than this many image sizes are pulled in: OpenCV's coordinates are 32-bit


def _wheel(count: int) -> tuple[tuple[int, int, int], ...]:
    colors = (colorsys.hsv_to_rgb(index / count, 1.0, 1.0) for index in range(count))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colors)


LIMB_COLORS = _wheel(len(LIMBS))
HAND_COLORS = _wheel(len(HAND_BONES))
_LIMBS = np.array(LIMBS)
_BONES = np.array(HAND_BONES)


def draw_controls(poses: PoseSequence, height: int, width: int) -> Picture:
    """Draws every frame of `poses` (already in the pixels of a height x width image) on black.

    Returns uint8 [T, H, W, 6]: channels 0-2 the skeleton in RGB, 3-5 the head sphere in RGB.
    """
    controls = np.zeros((len(poses), height, width, 6), np.uint8)
    for frame, control in enumerate(controls):
        control[..., :3] = draw_skeleton(poses, frame, height, width)
        draw_sphere(
            control[..., 3:],
            poses.head_center[frame],
            float(poses.head_radius[frame]),
            poses.head_rotation[frame],
            float(poses.head_confidence[frame]),
        )
    return controls


@dataclass(frozen=True)
class DrawnControls:
    """The control maps of `poses`, u8 [T, H, W, 6], drawn where some are taken by a slice or as an array: a minute's at
    640x960 take 5 GB."""

    poses: PoseSequence
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, frames: slice) -> Picture:
        return draw_controls(self.poses[frames], self.height, self.width)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.uint8, copy=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), self.height, self.width, 6

    @property
    def nbytes(self) -> int:
        """Of what they are drawn from."""
        return int(sum(part.nbytes for part in vars(self.poses).values()))


def draw_skeleton(poses: PoseSequence, frame: int, height: int, width: int) -> Picture:
    """Limbs, then hands, of one frame: uint8 [H, W, 3]. What is less sure than `VISIBLE` is left out."""
    canvas = np.zeros((height, width, 3), np.uint8)
    size = min(height, width)
    joints, confidence = poses.joints[frame], poses.confidence[frame]
    ends = joints[_LIMBS]  # [L, 2, 3]
    drawn = (confidence[_LIMBS].min(axis=1) >= VISIBLE) & np.isfinite(ends).all(axis=(1, 2))
    order = np.argsort(-ends[:, :, 2].mean(axis=1), kind="stable")
    _lines(canvas, ends, LIMB_COLORS, [int(i) for i in order if drawn[i]], size * LIMB_WIDTH)
    for side in range(2):
        points = poses.hands[frame, side]
        if poses.hand_confidence[frame, side] >= VISIBLE and np.isfinite(points).all():
            _lines(canvas, points[_BONES], HAND_COLORS, range(len(_BONES)), max(1.0, size * HAND_WIDTH))
    return canvas


def draw_sphere(canvas: Picture, center: Float, radius: float, rotation: Float, confidence: float = 1.0) -> None:
    """Draws one head into `canvas`, uint8 [H, W, 3].

    A surface point whose normal in head coordinates is (x, y, z) gets the colour ((1 + x) / 2, (1 - y) / 2,
    (1 - z) / 2): blue looks to where the face looks, red to the person's left, green up. Never black.
    """
    height, width = canvas.shape[:2]
    if confidence < VISIBLE or not radius > 0 or not (np.isfinite(center).all() and np.isfinite(radius)):
        return
    (x, y), reach = center, radius + 1
    left, right = int(np.clip(np.floor(x - reach), 0, width)), int(np.clip(np.ceil(x + reach) + 1, 0, width))
    top, bottom = int(np.clip(np.floor(y - reach), 0, height)), int(np.clip(np.ceil(y + reach) + 1, 0, height))
    if left >= right or top >= bottom:
        return
    nx = ((np.arange(left, right, dtype=np.float32) - x) / radius)[None, :]
    ny = ((np.arange(top, bottom, dtype=np.float32) - y) / radius)[:, None]
    square = nx * nx + ny * ny
    distance = np.sqrt(square)
    inside = np.minimum(1.0, 1.0 / np.maximum(distance, 1e-6))  # the soft rim takes the rim's colour
    normal = np.stack([nx * inside, ny * inside, -np.sqrt(np.maximum(0.0, 1.0 - np.minimum(square, 1.0)))], axis=-1)
    head = normal @ np.asarray(rotation, np.float32)  # R^T n, row-wise
    color = (head * np.array([0.5, -0.5, -0.5], np.float32) + 0.5) * 255.0
    cover = np.clip((1.0 - distance) * radius + 0.5, 0.0, 1.0)[..., None]
    canvas[top:bottom, left:right] = np.rint(np.clip(color * cover, 0, 255)).astype(np.uint8)


def _lines(
    canvas: Picture,
    ends: Float,
    colors: tuple[tuple[int, int, int], ...],
    order: list[int] | range,
    width: float,
) -> None:
    """Draws the lines `ends` [N, 2, 3] with round ends, in `order`."""
    limit = FAR * max(canvas.shape[:2])
    a, b = (np.clip(np.nan_to_num(ends[:, side, :2]), -limit, limit) for side in range(2))
    along = b - a
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / length * (width / 2)
    quads = np.stack([a + across, b + across, b - across, a - across], axis=1)
    fixed = np.rint(quads * (1 << SHIFT)).astype(np.int32)
    dots = np.rint(np.stack([a, b], axis=1) * (1 << SHIFT)).astype(np.int32).tolist()
    radius = round(width / 2 * (1 << SHIFT))
    for index in order:
        color = colors[index]
        cv2.fillConvexPoly(canvas, fixed[index], color, cv2.LINE_AA, SHIFT)
        if width >= 2:
            for dot in dots[index]:
                cv2.circle(canvas, dot, radius, color, -1, cv2.LINE_AA, SHIFT)
