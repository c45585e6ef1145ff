"""A scene from a seed: who is seen doing what before which camera and background; its frames, poses and face crops.

Splits differ in characters (disjoint seed ranges) and in motion capture clips (`mocap.SPLITS`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.motion.faces import DOWN, FORWARD, SIDE
from dreamactor.motion.pose import JOINTS, PoseSequence
from dreamactor.motion.retarget import SCALES, Scale
from dreamactor.presets import FACE_SIZE
from dreamactor.training.characters.backdrop import make_backdrop
from dreamactor.training.characters.character import Character, make_character
from dreamactor.training.characters.mocap import SPLITS, Motion, load_clips
from dreamactor.training.characters.paint import Image, View
from dreamactor.training.characters.paint_body import draw_person
from dreamactor.training.characters.performance import Performance, Score, make_score, perform

SUPERSAMPLE = 2
MOUTH_SIZE = 0.32  # half-side of the region round a mouth, in head radii
SHOWS_FACE = -0.4  # z of the face's direction from which its expression can be seen
SPLIT_SEEDS = {"train": 0, "val": 10_000_000, "test": 20_000_000}


@dataclass(frozen=True)
class Scene:
    """A character, what it does, the camera and the background."""

    character: Character
    performance: Performance
    view: View
    backdrop: Image
    framing: Scale


class Scenes:
    """Makes scenes of one split; needs the motion capture folder (see `assets.py`)."""

    def __init__(self, split: str, mocap: Path, height: int, width: int, fps: float) -> None:
        if split not in SPLITS:
            raise InputError(f"There is no split '{split}'; choose one of {', '.join(SPLITS)}.")
        self.split, self.height, self.width, self.fps = split, height, width, fps
        self.clips: dict[str, tuple[float, Motion]] = load_clips(mocap, SPLITS[split])

    def score(self, seed: int, frames: int, framing: Scale) -> Score:
        rng = np.random.default_rng([SPLIT_SEEDS[self.split], seed, 11])
        return make_score(rng, self.clips, frames, self.fps, framing)

    def character(self, seed: int) -> Character:
        return make_character(SPLIT_SEEDS[self.split] + seed)

    def scene(self, seed: int, frames: int, framing: Scale | None = None) -> Scene:
        """The scene of a seed. Framing is drawn at random unless given: face, half or full."""
        rng = np.random.default_rng([SPLIT_SEEDS[self.split], seed, 12])
        chosen = SCALES[int(rng.choice(len(SCALES), p=(0.36, 0.36, 0.28)))]
        framing = framing or chosen
        if framing not in SCALES:
            raise InputError(f"There is no framing '{framing}'; choose one of {', '.join(SCALES)}.")
        character = self.character(seed)
        performance = perform(character.body, self.score(seed, frames, framing))
        view = frame_camera(rng, performance, character, framing, self.height, self.width)
        floor = float(np.median(performance.joints[:, :, 1].max(axis=1)) * view.scale + view.offset[1]) / self.height
        backdrop = make_backdrop(
            rng,
            self.height * SUPERSAMPLE,
            self.width * SUPERSAMPLE,
            min(floor - 0.06, 0.9) if framing == "full" else None,
        )
        return Scene(character, performance, view, backdrop, framing)


def frame_camera(
    rng: np.random.Generator, performance: Performance, character: Character, framing: Scale, height: int, width: int
) -> View:
    """Chooses scale and offset so that the framing's part of the body fills the picture."""
    head = np.median(performance.head_center, axis=0)
    radius = character.body.head
    size = min(height, width)
    if framing == "full":
        low, high = performance.joints[:, :, :2].min((0, 1)), performance.joints[:, :, :2].max((0, 1))
        low = np.minimum(low, performance.head_center[:, :2].min(0) - 1.15 * radius)
        high = np.maximum(high, performance.head_center[:, :2].max(0) + radius)
        span = max(float((high - low).max()) + 0.12, 1.5)
        scale = size / (span * rng.uniform(1.0, 1.18))
        middle = (low + high) / 2
    elif framing == "half":
        scale = size / (radius * rng.uniform(6.8, 8.8))
        middle = head[:2] + np.array([rng.normal(0, 0.35), rng.uniform(1.6, 2.3)]) * radius
    else:
        scale = size / (radius * rng.uniform(3.6, 4.8))
        middle = head[:2] + np.array([rng.normal(0, 0.18), rng.uniform(0.15, 0.6)]) * radius
    offset = np.array([width, height]) / 2 - middle * scale
    angle = rng.uniform(-2.6, -0.5)
    return View(
        float(scale), (float(offset[0]), float(offset[1])), height, width,
        (float(0.7 * np.cos(angle)), float(0.7 * np.sin(angle))), float(rng.uniform(0.66, 0.86)),
    )  # fmt: skip


def render_frame(scene: Scene, frame: int) -> Image:
    """One frame, uint8 [H, W, 3]: drawn at twice the size, then averaged."""
    view = scene.view
    large = replace(
        view, scale=view.scale * SUPERSAMPLE, offset=(view.offset[0] * SUPERSAMPLE, view.offset[1] * SUPERSAMPLE),
        height=view.height * SUPERSAMPLE, width=view.width * SUPERSAMPLE,
    )  # fmt: skip
    canvas = scene.backdrop.copy()
    draw_person(canvas, large, scene.character, scene.performance, frame)
    return np.asarray(cv2.resize(canvas, (view.width, view.height), interpolation=cv2.INTER_AREA), np.uint8)


def render(scene: Scene) -> NDArray[np.uint8]:
    """All frames, uint8 [T, H, W, 3]."""
    return np.stack([render_frame(scene, frame) for frame in range(len(scene.performance))])


def face_crop(
    scene: Scene, frame: int, size: int = FACE_SIZE, shift: tuple[float, float] = (0.0, 0.0), margin: float = 1.0
) -> Image:
    """The square of `dreamactor.motion.faces` round the face, drawn at size x size instead of cut out of the frame.

    `shift` moves it by head radii, `margin` > 1 shows more.
    """
    radius, rotation = scene.character.body.head, scene.performance.head[frame]
    middle = FORWARD * -rotation[:2, 2] + DOWN * rotation[:2, 1] + np.array(shift)
    scale = size / (SIDE * radius * margin)
    offset = size / 2 - (scene.performance.head_center[frame][:2] + middle * radius) * scale
    view = replace(scene.view, scale=scale, offset=(float(offset[0]), float(offset[1])), height=size, width=size)
    canvas = np.asarray(cv2.resize(scene.backdrop, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    draw_person(canvas, view, scene.character, scene.performance, frame)
    return canvas


def mouth_places(scene: Scene) -> NDArray[np.float32]:
    """Where the mouth is [T, 3]: x, y and half-side in pixels; the half-side is 0 where the face is turned away."""
    performance, view, face = scene.performance, scene.view, scene.character.face
    radius = scene.character.body.head * view.scale
    latitude = np.deg2rad(face.mouth_height + 4)
    place = np.array([0, np.sin(latitude), -face.depth * np.cos(latitude)])
    middle = view.project(performance.head_center) + (performance.head @ place)[:, :2] * radius
    half = np.where(faces_camera(scene), MOUTH_SIZE * radius, 0)
    return np.concatenate([middle, half[:, None]], axis=1).astype(np.float32)


def faces_camera(scene: Scene, limit: float = SHOWS_FACE) -> NDArray[np.bool_]:
    """[T]: whether the face is turned to the camera, up to `limit` (-1: straight at it, 0: a profile)."""
    return np.asarray(-scene.performance.head[:, 2, 2] < limit)


def pose_sequence(scene: Scene) -> PoseSequence:
    """The true pose of a scene in the pixels of its picture, everything visible."""
    performance, view = scene.performance, scene.view
    frames = len(performance)

    def pixels(points: NDArray[np.float64]) -> NDArray[np.float32]:
        return (points * view.scale + np.array([*view.offset, 0.0])).astype(np.float32)

    centre = performance.head_center
    joints = pixels(performance.joints)
    return PoseSequence(
        joints=joints,
        confidence=np.ones((frames, len(JOINTS)), np.float32),
        hands=pixels(performance.hands),
        hand_confidence=np.ones((frames, 2), np.float32),
        head_center=pixels(centre)[:, :2],
        head_radius=np.full(frames, scene.character.body.head * view.scale, np.float32),
        head_rotation=performance.head.astype(np.float32),
        head_confidence=np.ones(frames, np.float32),
    )
