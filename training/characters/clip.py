"""A training clip, rendered from its seed: `make_clip`.

It has frames, the control maps drawn by `dreamactor.motion.draw`, the driving face crops (half of the time another
character's with the same expression, so that the face encoder learns the expression and not the person) and reference
frames: those of largest, smallest and median head yaw of the clip, and as many of the same character in another
performance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamactor.motion.draw import draw_controls
from dreamactor.motion.pose import INDEX, PoseSequence, extreme_yaws
from dreamactor.motion.retarget import Scale, only
from dreamactor.presets import FACE_SIZE
from dreamactor.training.characters.performance import perform
from dreamactor.training.characters.scene import (
    Scene,
    Scenes,
    face_crop,
    faces_camera,
    mouth_places,
    pose_sequence,
    render,
    render_frame,
)

FRAMES = 33  # a 25-frame segment at three offsets
REFERENCES = 6
PHOTO = 5  # of the references, the one like a user's photo: another performance, median yaw
STORED_FACE = 112  # half the encoder's size: doubled when read
FACE_MARGIN = 1.15  # the stored crops show this much more than the encoder's
LIMITED = 0.3  # how often a clip has only the limbs of its framing

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """frames u8 [T,H,W,3]; controls u8 [T,H,W,6]; faces u8 [T,112,112,3]; references u8 [R,H,W,3];
    reference_controls u8 [R,H,W,6]; heads and mouths f32 [T,3]: x, y and radius in pixels (a mouth's is 0 where the
    face is turned away); expressions f32 [T,8]: the fields of `Expression`, NaN where the face is turned away."""

    frames: Bytes
    controls: Bytes
    faces: Bytes
    references: Bytes
    reference_controls: Bytes
    heads: NDArray[np.float32]
    mouths: NDArray[np.float32]
    expressions: NDArray[np.float32]


def make_clip(
    scenes: Scenes, seed: int, frames: int = FRAMES, framing: Scale | None = None, limited: float = LIMITED
) -> Clip:
    """Renders the clip of a seed; with the chance `limited` its controls have only the limbs of its framing."""
    rng = np.random.default_rng([seed, 21])
    scene = scenes.scene(seed, frames, framing)
    poses = pose_sequence(scene)
    other = replace(
        scene, performance=perform(scene.character.body, scenes.score(seed + 5_000_000, frames, scene.framing))
    )
    faces = render_faces(scenes, scene, seed, rng)
    pictures = render(scene)
    own, foreign = extremes(scene), extremes(other)
    references = np.concatenate([pictures[own], np.stack([render_frame(other, i) for i in foreign])])
    other_poses = pose_sequence(other)
    reference_poses = PoseSequence.concatenate(
        [poses[i : i + 1] for i in own] + [other_poses[i : i + 1] for i in foreign]
    )
    controls, reference_controls = draw_clip_controls(scene, poses, reference_poses, rng, seed, limited)
    return Clip(
        frames=pictures,
        controls=controls,
        faces=faces,
        references=references,
        reference_controls=reference_controls,
        heads=np.concatenate([poses.head_center, poses.head_radius[:, None]], axis=1).astype(np.float32),
        mouths=mouth_places(scene),
        expressions=visible_expressions(scene),
    )


def visible_expressions(scene: Scene) -> NDArray[np.float32]:
    """The fields of the expression [T,8], NaN where the face is turned away."""
    values = scene.performance.expression.values().astype(np.float32)
    values[~faces_camera(scene)] = np.nan
    return values


def draw_clip_controls(
    scene: Scene, poses: PoseSequence, references: PoseSequence, rng: np.random.Generator, seed: int, limited: float
) -> tuple[Bytes, Bytes]:
    """Control maps of the clip and of its references, with the chance `limited` without the limbs that
    `motion.retarget` leaves out at this framing."""
    height, width = scene.view.height, scene.view.width
    poses = as_detected(rng, poses, height, width, scene.framing)
    if np.random.default_rng([seed, 22]).random() < limited:
        poses, references = only(poses, scene.framing), only(references, scene.framing)
    return draw_controls(poses, height, width), draw_controls(references, height, width)


def render_faces(scenes: Scenes, scene: Scene, seed: int, rng: np.random.Generator) -> Bytes:
    """Driving face crops [T,112,112,3] of a scene, with a margin for augmentation: half of the time another
    character's, with the same expression and head turns."""
    frames = len(scene.performance)
    if rng.random() < 0.5:
        character = scenes.character(seed + 3_000_000)
        performance = perform(character.body, scenes.score(seed, frames, scene.framing))
        scene = replace(scene, character=character, performance=performance)
    margin = FACE_MARGIN / float(rng.uniform(0.95, 1.05))
    shift = float(rng.normal(0, 0.04)), float(rng.normal(0, 0.04))
    return np.stack([face_crop(scene, i, STORED_FACE, shift, margin) for i in range(frames)])


def extremes(scene: Scene) -> list[int]:
    """Frames with the most different views of the head, by the yaw of where it looks (of the other sign than `yaw` in a
    clip's motion: the same frames, the first two the other way round)."""
    forward = -scene.performance.head[:, :, 2]
    return extreme_yaws(np.arctan2(forward[:, 0], -forward[:, 2]))


def as_detected(rng: np.random.Generator, poses: PoseSequence, height: int, width: int, framing: str) -> PoseSequence:
    """The true pose with a detector's faults: jitter, hands not found, joints outside the picture left out."""
    size = min(height, width)
    jitter = rng.normal(size=poses.joints.shape) * rng.uniform(0, 0.004) * size
    jitter[:, INDEX["nose"]] = 0
    confidence = poses.confidence.copy()
    if rng.random() < 0.6:
        x, y = poses.joints[..., 0], poses.joints[..., 1]
        margin = float(rng.uniform(0.02, 0.3)) * size
        outside = (x < -margin) | (x > width + margin) | (y < -margin) | (y > height + margin)
        confidence[outside] = 0
    hands = poses.hand_confidence.copy()
    hands[:, rng.random(2) < (0.5 if framing == "full" else 0.15)] = 0
    return replace(
        poses, joints=(poses.joints + jitter).astype(np.float32), confidence=confidence, hand_confidence=hands
    )


def enlarge_faces(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stored crops [T,112,112,3] without their margin at the encoder's size [T,224,224,3]."""
    size, edge = (FACE_SIZE, FACE_SIZE), face_edge(faces.shape[1])
    inner = faces[:, edge:-edge, edge:-edge]
    return np.stack([cv2.resize(face, size, interpolation=cv2.INTER_LINEAR) for face in inner]).astype(np.uint8)


def face_edge(size: int) -> int:
    """Pixels of margin at each side of a stored crop of `size` pixels."""
    return round(size * (1 - 1 / FACE_MARGIN) / 2)
