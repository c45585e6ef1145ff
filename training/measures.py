"""Measures of generated frames against the true render. Frames are uint8 [T,H,W,3]."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamactor.motion.pose import INDEX, PoseSequence
from dreamactor.training.characters.scene import MOUTH_SIZE, Scene, faces_camera, mouth_places, render_frame

Frames = NDArray[np.uint8]
JUDGED = tuple(n for n in INDEX if n not in ("neck", "nose", "right_toe", "left_toe"))
REACH = 0.14  # how far a joint is looked for, share of the height
PATCH = 0.055  # half-side of the patch that is looked for
OPENINGS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MOUTH_RADIUS = 12  # pixels of head radius under which a mouth is too small to judge
FACING = -0.75  # z of the face's direction from which its mouth is judged


def joint_error(made: Frames, truth: Frames, poses: PoseSequence, every: int = 4) -> float:
    """Mean distance, as a share of the height, between where joints are and where they should be.

    The true render is the marker: the patch round each joint inside the picture is looked for in the generated frame
    within `REACH`; what is not found there counts as `REACH`.
    """
    height = made.shape[1]
    reach, half = round(REACH * height), max(3, round(PATCH * height))
    errors = []
    for frame in range(0, len(made), every):
        a, b = (cv2.cvtColor(i[frame], cv2.COLOR_RGB2LAB).astype(np.float32) for i in (made, truth))
        pad = reach + half
        a = cv2.copyMakeBorder(a, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        b = cv2.copyMakeBorder(b, half, half, half, half, cv2.BORDER_REPLICATE)
        points = [poses.joints[frame, INDEX[name], :2] for name in JUDGED] + [poses.head_center[frame]]
        for x, y in points:
            column, row = round(float(x)), round(float(y))
            if not (0 <= column < made.shape[2] and 0 <= row < height):
                continue
            patch = b[row : row + 2 * half + 1, column : column + 2 * half + 1]
            field = a[row : row + 2 * pad + 1, column : column + 2 * pad + 1]
            errors.append(_displacement(field, patch, reach) / height)
    return float(np.mean(errors)) if errors else float("nan")


def _displacement(field: NDArray[np.float32], patch: NDArray[np.float32], reach: int) -> float:
    """Distance in pixels from the middle of `field` to the best match of `patch`, at most `reach`."""
    score = cv2.matchTemplate(field, patch, cv2.TM_SQDIFF) / patch.size
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(x, y)
    spread = max(float(patch.reshape(-1, 3).var(axis=0).sum()) / 3, 4.0)
    cost = score + 0.35 * spread * (distance / reach) ** 2  # flat patches match everywhere: prefer the near
    best = np.unravel_index(int(cost.argmin()), cost.shape)
    found = score[best] < 1.5 * spread
    return float(min(distance[best], reach)) if found else float(reach)


@dataclass(frozen=True)
class MouthRuler:
    """For each frame the box round the mouth and how the box looks at each of `OPENINGS`; None where no mouth shows."""

    boxes: list[tuple[slice, slice] | None]
    looks: list[NDArray[np.float32]]


def mouth_ruler(scene: Scene, frames: int) -> MouthRuler:
    """Renders the scene at every opening. Frames are left out in which the face is turned away, the mouth is too
    small or outside the picture, or a hand is before it."""
    performance, view = scene.performance, scene.view
    radius = scene.character.body.head * view.scale
    places, facing = mouth_places(scene), faces_camera(scene, FACING)
    half = max(3, round(MOUTH_SIZE * radius))
    openings = [np.full(len(performance), level) for level in OPENINGS]
    scenes = [
        replace(scene, performance=replace(performance, expression=replace(performance.expression, mouth_open=level)))
        for level in openings
    ]
    ruler = MouthRuler([], [])
    for frame in range(frames):
        x, y, _ = places[frame]
        hands = view.project(performance.hands[frame].reshape(-1, 3))
        small = radius < MOUTH_RADIUS
        hidden = small or not facing[frame] or np.hypot(hands[:, 0] - x, hands[:, 1] - y).min() < 0.6 * radius
        left, top = round(float(x)) - half, round(float(y)) - half
        right, bottom = left + 2 * half, top + 2 * half
        if hidden or min(left, top) < 0 or right >= view.width or bottom >= view.height:
            ruler.boxes.append(None)
            ruler.looks.append(np.zeros(0, np.float32))
            continue
        box = slice(top, top + 2 * half + 1), slice(left, left + 2 * half + 1)
        ruler.boxes.append(box)
        ruler.looks.append(np.stack([_look(render_frame(s, frame)[box]) for s in scenes]))
    return ruler


def _look(region: Frames) -> NDArray[np.float32]:
    blurred = cv2.GaussianBlur(region.astype(np.float32), (0, 0), 0.8)
    return np.asarray(blurred - blurred.mean(axis=(0, 1)), np.float32)


def mouth_opening(frames: Frames, ruler: MouthRuler) -> NDArray[np.float64]:
    """How open the mouth is in each frame [T], 0..1, by the renders it is nearest to; NaN where none shows."""
    values = np.full(len(frames), np.nan)
    for frame, image in enumerate(frames):
        box = ruler.boxes[frame]
        if box is not None:
            looks = ruler.looks[frame]
            distance = ((looks - _look(image[box])) ** 2).mean(axis=(1, 2, 3))
            scale = float(((looks[-1] - looks[0]) ** 2).mean()) / len(OPENINGS)
            weight = np.exp(-(distance - distance.min()) / max(scale, 1e-3))
            values[frame] = float(weight @ np.array(OPENINGS) / weight.sum())
    return values


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's r over the frames where both are known; NaN when fewer than 8 are or nothing moves."""
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 8 or a[known].std() < 1e-6 or b[known].std() < 1e-3:
        return float("nan")
    return float(np.corrcoef(a[known], b[known])[0, 1])


def identity_error(made: Frames, truth: Frames, poses: PoseSequence) -> float:
    """Mean difference, in levels of 255, of the mean colour of the head and of the chest."""
    differences = []
    for frame in range(0, len(made), 4):
        neck = poses.joints[frame, INDEX["neck"], :2]
        hips = (poses.joints[frame, INDEX["right_hip"], :2] + poses.joints[frame, INDEX["left_hip"], :2]) / 2
        radius = float(poses.head_radius[frame])
        for x, y in (poses.head_center[frame], neck + 0.35 * (hips - neck)):
            mask = np.zeros(made.shape[1:3], np.uint8)
            cv2.circle(mask, (round(float(x)), round(float(y))), max(2, round(0.6 * radius)), (255.0,), -1)
            if mask.any():
                a, b = (np.array(cv2.mean(i[frame], mask)[:3]) for i in (made, truth))
                differences.append(float(np.abs(a - b).mean()))
    return float(np.mean(differences)) if differences else float("nan")


def flicker(made: Frames, truth: Frames) -> float:
    """Mean difference, in levels of 255, between the frame-to-frame changes of both."""
    a, b = (np.diff(i.astype(np.float32), axis=0) for i in (made, truth))
    return float(np.abs(a - b).mean())
