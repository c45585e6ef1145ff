"""The pose of one person over a clip: what every control map is drawn from.

Coordinates are pixels of the image: x to the right, y down, z away from the camera in the same unit (a point nearer to
the camera has the smaller z; only differences of z mean anything).

The head is a sphere. Its centre is the middle of the head (between chin and crown, between the ears), its radius half
the height from chin to crown. `head_rotation` takes head coordinates to camera coordinates; the identity faces the
camera, so the face looks along -z of the head, +x is the side of the person's left ear and +y points to the chin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

JOINTS = (
    "neck", "nose",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "right_toe",
    "left_hip", "left_knee", "left_ankle", "left_toe",
)  # fmt: skip
"""Joint names in the order of `PoseSequence.joints`. Right and left are the person's own. The neck is the middle of the
shoulders; the nose is the point of the head sphere that looks forward (`nose_of`)."""

INDEX = {name: index for index, name in enumerate(JOINTS)}

LIMBS = tuple(
    (INDEX[a], INDEX[b])
    for a, b in (
        ("neck", "right_shoulder"), ("neck", "left_shoulder"),
        ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
        ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
        ("neck", "right_hip"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"), ("right_ankle", "right_toe"),
        ("neck", "left_hip"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("left_ankle", "left_toe"),
        ("neck", "nose"),
    )
)  # fmt: skip
"""Pairs of joint indices, each a coloured line; the hue runs round the colour wheel in this order."""

HAND_BONES = tuple(
    (0 if bone == 0 else 4 * finger + bone, 4 * finger + bone + 1) for finger in range(5) for bone in range(4)
)
"""Pairs of hand landmark indices (0 wrist, then thumb, index, middle, ring, little finger with four points each)."""

RIGHT, LEFT = 0, 1
"""Index of the person's right and left hand in `PoseSequence.hands`."""

VISIBLE = 0.3
"""Confidence from which a joint, a hand or the head is drawn."""


@dataclass(frozen=True)
class PoseSequence:
    """T frames of one person, float32, in the pixels of one image size (the module's docstring has the axes).

    joints [T, J, 3] with confidence [T, J] in 0..1; hands [T, 2, 21, 3] (right, left) with hand_confidence [T, 2];
    head_center [T, 2], head_radius [T], head_rotation [T, 3, 3], head_confidence [T].
    """

    joints: Float
    confidence: Float
    hands: Float
    hand_confidence: Float
    head_center: Float
    head_radius: Float
    head_rotation: Float
    head_confidence: Float

    def __post_init__(self) -> None:
        frames, count = len(self.joints), len(JOINTS)
        shapes = {
            "joints": (frames, count, 3), "confidence": (frames, count),
            "hands": (frames, 2, 21, 3), "hand_confidence": (frames, 2),
            "head_center": (frames, 2), "head_radius": (frames,),
            "head_rotation": (frames, 3, 3), "head_confidence": (frames,),
        }  # fmt: skip
        for name, shape in shapes.items():
            array = np.asarray(getattr(self, name), np.float32)
            if array.shape != shape:
                raise ValueError(f"PoseSequence.{name} has shape {array.shape}, expected {shape}")
            object.__setattr__(self, name, array)

    @classmethod
    def empty(cls, frames: int) -> PoseSequence:
        """Nobody: confidences 0, the head facing the camera."""
        return cls(
            joints=np.zeros((frames, len(JOINTS), 3), np.float32),
            confidence=np.zeros((frames, len(JOINTS)), np.float32),
            hands=np.zeros((frames, 2, 21, 3), np.float32),
            hand_confidence=np.zeros((frames, 2), np.float32),
            head_center=np.zeros((frames, 2), np.float32),
            head_radius=np.ones(frames, np.float32),
            head_rotation=np.tile(np.eye(3, dtype=np.float32), (frames, 1, 1)),
            head_confidence=np.zeros(frames, np.float32),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[PoseSequence]) -> PoseSequence:
        """The frames of `parts` one after the other."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS})

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, frames: slice) -> PoseSequence:
        return PoseSequence(**{name: getattr(self, name)[frames] for name in FIELDS})

    def transformed(self, scale: float, offset: tuple[float, float] = (0.0, 0.0)) -> PoseSequence:
        """The same pose in another image: every point times `scale`, then moved by `offset` = (x, y) pixels."""
        move = np.array([*offset, 0.0], np.float32)
        return PoseSequence(
            joints=self.joints * np.float32(scale) + move,
            confidence=self.confidence,
            hands=self.hands * np.float32(scale) + move,
            hand_confidence=self.hand_confidence,
            head_center=self.head_center * np.float32(scale) + move[:2],
            head_radius=self.head_radius * np.float32(scale),
            head_rotation=self.head_rotation,
            head_confidence=self.head_confidence,
        )


FIELDS = tuple(PoseSequence.__dataclass_fields__)


def extreme_yaws(yaw: Float) -> list[int]:
    """Frames of the largest, the smallest and the median head yaw [T].

    The paper trains with references at these three (arXiv 2504.01724, section 3.3).
    """
    order = np.argsort(yaw, kind="stable")
    return [int(order[-1]), int(order[0]), int(order[len(order) // 2])]


def nose_of(center: Float, radius: Float, rotation: Float, center_z: Float | float = 0.0) -> Float:
    """The point [..., 3] of the head that looks forward, of center [..., 2], radius [...], rotation [..., 3, 3]."""
    forward = -np.asarray(rotation)[..., 2]
    depth = np.broadcast_to(np.asarray(center_z, np.float32), np.shape(radius))
    middle = np.concatenate([center, depth[..., None]], axis=-1)
    return np.asarray(middle + forward * np.asarray(radius)[..., None], np.float32)
