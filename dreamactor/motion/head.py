"""From face landmarks to the head: which way it looks, where its middle is, how large it is.

The template is our own: the rigid points of the face mesh (brow, nose, temples, cheekbones; no mouth, no jaw), averaged
over 73 faces of 10 people after alignment, made symmetric, in about centimetres. Axes as in `pose.py`: x to the
person's left, y down, z to the back; upright means that hairline and chin are equally deep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamactor.motion.pose import Float

_MIDLINE = (
    (10, -5.25, -1.67), (151, -3.64, -2.17), (9, -1.95, -2.59), (8, -1.02, -2.55), (168, -0.23, -2.59),
    (6, 0.56, -3.14), (197, 1.28, -3.74), (195, 1.94, -4.40), (5, 2.65, -5.07), (4, 3.56, -5.40),
)  # fmt: skip
_PAIRS = (
    (33, 263, 4.82, 0.49, -0.29), (133, 362, 1.88, 0.58, -0.86), (129, 358, 2.34, 4.06, -2.31),
    (127, 356, 7.32, 1.36, 4.88), (234, 454, 7.23, 2.90, 5.23), (162, 389, 7.21, -0.31, 3.96),
    (21, 251, 6.88, -1.68, 2.73), (54, 284, 6.27, -3.00, 1.55), (103, 332, 5.26, -4.08, 0.29),
    (67, 297, 3.70, -4.82, -0.84), (109, 338, 2.01, -5.17, -1.50), (116, 345, 6.69, 2.30, 0.88),
    (123, 352, 6.69, 3.64, 0.60), (50, 280, 5.29, 3.68, -1.21), (93, 323, 7.14, 4.43, 5.14),
    (70, 300, 6.03, -1.11, -0.05), (105, 334, 4.36, -2.21, -1.55),
)  # fmt: skip
RIGID = np.array([index for index, _, _ in _MIDLINE] + [index for pair in _PAIRS for index in pair[:2]])
TEMPLATE = np.array(
    [(0.0, y, z) for _, y, z in _MIDLINE] + [(side * x, y, z) for _, _, x, y, z in _PAIRS for side in (-1, 1)]
)
CENTER = np.array([0.0, 1.2, 6.9])
"""Middle of the head in template units: half way from chin (y 12.45) to crown, half way from brow to back."""
RADIUS = 11.25
"""Half of chin to crown: the face from hairline to chin, 17.7, is 0.79 of it."""


@dataclass(frozen=True)
class Head:
    """A head in one frame: middle (x, y, z) and radius in pixels, rotation [3, 3] from head to camera."""

    center: Float
    radius: float
    rotation: Float


def align(template: NDArray[np.float64], points: Float) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Scale s, rotation R [3, 3], shift t [3] with s R template + t closest to `points` [N, 3] (Procrustes)."""
    target = points.astype(np.float64)
    a, b = template.mean(axis=0), target.mean(axis=0)
    u, singular, vt = np.linalg.svd((target - b).T @ (template - a))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = (u * sign) @ vt
    spread = float(((template - a) ** 2).sum())
    scale = float((singular * sign).sum()) / spread
    return scale, rotation, b - scale * rotation @ a


def head_of_face(mesh: Float) -> Head:
    """The head of a face mesh [468, 3] in pixels."""
    return _head(*align(TEMPLATE, mesh[RIGID]))


def _head(scale: float, rotation: NDArray[np.float64], shift: NDArray[np.float64]) -> Head:
    center = scale * rotation @ CENTER + shift
    return Head(center.astype(np.float32), scale * RADIUS, rotation.astype(np.float32))


# The eleven face points of the body model, as it puts them in metres (it draws the eyes together; centimetres here) and
# as they lie on the template: nose; left eye inner, middle, outer; right eye the same; ears; corners of the mouth.
_BODY_METRES = np.array(
    [(0, 1.7, -4.1), (1.6, -2.0, -2.0), (1.6, -2.0, -2.0), (1.6, -2.0, -2.0), (-1.6, -2.0, -2.0), (-1.6, -2.0, -2.0),
     (-1.6, -2.0, -2.0), (7.1, 0.6, 8.9), (-7.1, 0.6, 8.9), (2.2, 4.4, -0.7), (-2.2, 4.4, -0.7)]
)  # fmt: skip
_BODY_TEMPLATE = np.array(
    [(0, 3.56, -5.4), (1.88, 0.58, -0.86), (3.3, 0.4, -0.9), (4.82, 0.49, -0.29), (-1.88, 0.58, -0.86),
     (-3.3, 0.4, -0.9), (-4.82, 0.49, -0.29), (7.3, 2.5, 6.0), (-7.3, 2.5, 6.0), (3.18, 7.13, -1.28),
     (-3.18, 7.13, -1.28)]
)  # fmt: skip
BODY_FACE_POINTS = 11
BODY_FACE_SHRINK = 1.19  # the body model's ears lie inside the head: against the mesh its heads came out at 0.84


def head_of_body(points: Float, world: Float) -> Head:
    """The head of a body without a usable face: its landmarks [33, 3] in pixels and in metres.

    Orientation comes from the metres (nose and ears in space), size and place from the pixels.
    """
    _, rotation, _ = align(_BODY_METRES, world[:BODY_FACE_POINTS])
    turned = (_BODY_TEMPLATE @ rotation.T)[:, :2]
    target = points[:BODY_FACE_POINTS, :2].astype(np.float64)
    a, b = turned.mean(axis=0), target.mean(axis=0)
    scale = BODY_FACE_SHRINK * max(1e-3, float(((turned - a) * (target - b)).sum() / ((turned - a) ** 2).sum()))
    shift = np.array([*(b - scale * a), points[7:9, 2].mean()])
    return _head(scale, rotation, shift)
