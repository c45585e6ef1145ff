"""Drawing primitives on uint8 RGB canvases: sub-pixel polygons and softly shaded capsules."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamactor.training.characters.character import Color

Image = NDArray[np.uint8]
Points = NDArray[np.float64]

SHIFT = 4
LAYERS = ((1.0, 0.70), (0.84, 0.86), (0.62, 1.0), (0.34, 1.1))  # share of the radius, brightness
LIMIT = 4000.0


@dataclass(frozen=True)
class View:
    """Orthographic camera: pixel = scale * (x, y) + offset, on a height x width canvas. `light` is a 2D direction to
    the light in the picture, `ambient` the brightness of what it does not reach."""

    scale: float
    offset: tuple[float, float]
    height: int
    width: int
    light: tuple[float, float] = (-0.5, -0.6)
    ambient: float = 0.75

    def project(self, points: Points) -> Points:
        """[..., 3] or [..., 2] metres to [..., 2] pixels."""
        return np.asarray(points[..., :2] * self.scale + np.array(self.offset))


def tint(color: Color, factor: float) -> tuple[float, float, float]:
    """`color` times `factor`, kept in range: what OpenCV draws with."""
    return min(255.0, color[0] * factor), min(255.0, color[1] * factor), min(255.0, color[2] * factor)


def halved(image: Image, times: int) -> Image:
    """The picture at half its size, so many times over."""
    for _ in range(times):
        image = np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
    return image


def polygon(canvas: Image, points: Points, color: Color, convex: bool = False) -> None:
    """Fills a polygon [N, 2] given in pixels."""
    if not shows(canvas, points):
        return
    fixed = _fixed(points)
    if convex:
        cv2.fillConvexPoly(canvas, fixed, color, cv2.LINE_AA, SHIFT)
    else:
        cv2.fillPoly(canvas, [fixed], color, cv2.LINE_AA, SHIFT)


def shows(canvas: Image, points: Points, margin: float = 2.0) -> bool:
    """Whether what is drawn round points [N, 2], up to `margin` pixels from them, can touch the canvas."""
    x, y = zip(*points.tolist(), strict=True)
    height, width = canvas.shape[:2]
    return max(x) > -margin and max(y) > -margin and min(x) < width + margin and min(y) < height + margin


def _fixed(points: Points) -> NDArray[np.int32]:
    """In OpenCV's fixed point."""
    return np.rint(np.maximum(np.minimum(points, LIMIT), -LIMIT) * (1 << SHIFT)).astype(np.int32)


def disk(canvas: Image, x: float, y: float, radius: float, color: Color) -> None:
    if abs(x) < LIMIT and abs(y) < LIMIT and radius > 0.1:
        scale = 1 << SHIFT
        cv2.circle(canvas, (round(x * scale), round(y * scale)), round(radius * scale), color, -1, cv2.LINE_AA, SHIFT)


def ellipse(canvas: Image, x: float, y: float, rx: float, ry: float, color: Color) -> None:
    polygon(canvas, ellipse_points(x, y, rx, ry), color, convex=True)


def circle(count: int) -> Points:
    """So many points [count, 2] of the circle of radius 1 around 0."""
    angle = np.linspace(0, 2 * np.pi, count, False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


_CIRCLE = circle(20)


def ellipse_points(x: float, y: float, rx: float, ry: float) -> Points:
    return np.asarray(_CIRCLE * np.array([rx, ry]) + np.array([x, y]))


def stroke(canvas: Image, points: Points, color: Color, width: float) -> None:
    """A line through points [N, 2], at least one pixel wide."""
    if shows(canvas, points, width + 2):
        cv2.polylines(canvas, [_fixed(points)], False, color, max(1, round(width)), cv2.LINE_AA, SHIFT)


def capsule(
    canvas: Image,
    view: View,
    a: Points,
    b: Points,
    radius_a: float,
    radius_b: float,
    color: Color,
    layers: tuple[tuple[float, float], ...] = LAYERS,
) -> None:
    """A round limb from a to b [2] in pixels with radii in pixels, lit from `view.light`."""
    if not shows(canvas, np.stack([a, b]), 1.5 * max(radius_a, radius_b) + 2):
        return
    (ax, ay), (bx, by) = a.tolist(), b.tolist()
    length = math.hypot(bx - ax, by - ay)
    across_x, across_y = (ay - by) / max(length, 1e-6), (bx - ax) / max(length, 1e-6)
    for share, brightness in layers:
        shade = tint(color, view.ambient + (1 - view.ambient) * 1.35 * brightness - 0.12 * (1 - brightness))
        move_x, move_y = (part * (1 - share) * 0.75 for part in view.light)
        pa_x, pa_y, ra = ax + move_x * radius_a, ay + move_y * radius_a, radius_a * share
        pb_x, pb_y, rb = bx + move_x * radius_b, by + move_y * radius_b, radius_b * share
        if length > 0.3:
            corners = (
                (pa_x + across_x * ra, pa_y + across_y * ra), (pb_x + across_x * rb, pb_y + across_y * rb),
                (pb_x - across_x * rb, pb_y - across_y * rb), (pa_x - across_x * ra, pa_y - across_y * ra),
            )  # fmt: skip
            polygon(canvas, np.array(corners), shade, True)
        disk(canvas, pa_x, pa_y, ra, shade)
        disk(canvas, pb_x, pb_y, rb, shade)
