"""The driving person's motion on the reference person's body (DreamActor-M1, section 3.2).

From the paper: bone lengths normalised to the reference, the head sphere's size from the reference, its place and
colour from the driving head. The paper does not publish how the driving person is placed in the reference's picture;
ours: the neck moves as the driving neck moves, in proportion, about the reference's neck (for a standing full body,
about the reference's ground). A driving person who comes nearer grows by as much.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.motion.pose import INDEX, JOINTS, LEFT, RIGHT, VISIBLE, Float, PoseSequence, nose_of
from dreamactor.motion.smooth import fill

Scale = Literal["face", "half", "full"]
SCALES: tuple[Scale, ...] = ("face", "half", "full")

PARENTS = {
    "right_shoulder": "neck", "right_elbow": "right_shoulder", "right_wrist": "right_elbow",
    "left_shoulder": "neck", "left_elbow": "left_shoulder", "left_wrist": "left_elbow",
    "right_hip": "neck", "right_knee": "right_hip", "right_ankle": "right_knee", "right_toe": "right_ankle",
    "left_hip": "neck", "left_knee": "left_hip", "left_ankle": "left_knee", "left_toe": "left_ankle",
}  # fmt: skip
"""Each joint's parent; parents come before children."""

FACE_JOINTS = ("neck", "nose", "right_shoulder", "left_shoulder")
HALF_JOINTS = (*FACE_JOINTS, "right_elbow", "right_wrist", "left_elbow", "left_wrist", "right_hip", "left_hip")
NECK_BELOW = 1.9  # head radii from the middle of the head down to the neck, where no shoulder shows it
KNOWN = 0.15  # share of the frames in which a joint must be seen to be driven
BONE_RANGE = 0.6, 1.6  # a bone's own ratio, relative to the whole body's
ZOOM_RANGE = 0.6, 1.6  # growth of the head over the clip
ZOOM_SECONDS = 0.5  # slower changes than this count as coming nearer; faster ones are noise
CLEAR = 0.5  # confidence from which a joint of the reference decides the scale


def choose_scale(reference: PoseSequence, scale: str | None = None) -> Scale:
    """What of the body is driven: what the reference shows, or `scale`; raises InputError for an unknown one."""
    for known in SCALES:
        if scale == known:
            return known
    if scale is not None:
        raise InputError(f"There is no scale '{scale}'; choose one of {', '.join(SCALES)}.")
    seen = {name for name, sure in zip(JOINTS, reference.confidence[0], strict=True) if sure >= CLEAR}
    if seen & {"right_knee", "left_knee", "right_ankle", "left_ankle"}:
        return "full"
    return "half" if seen & {"right_elbow", "left_elbow", "right_hip", "left_hip"} else "face"


def only(poses: PoseSequence, scale: Scale) -> PoseSequence:
    """`poses` without the limbs that `scale` leaves out."""
    if scale == "full":
        return poses
    kept = FACE_JOINTS if scale == "face" else HALF_JOINTS
    mask = np.array([name in kept for name in JOINTS], np.float32)
    return dataclasses.replace(
        poses,
        confidence=poses.confidence * mask,
        hand_confidence=poses.hand_confidence * np.float32(scale != "face"),
    )


def retarget(
    poses: PoseSequence, reference: PoseSequence, scale: Scale, fps: float
) -> tuple[PoseSequence, tuple[str, ...]]:
    """Puts the motion of `poses` (driving pixels) on `reference` (one frame, in the pixels of the result).

    Returns the sequence in the reference's picture, reduced to `scale`, and notes on limbs that could not be driven.
    """
    body = _Bodies(poses, reference)
    size = body.size_ratio()
    joints = np.zeros_like(poses.joints)
    confidence = poses.confidence.copy()
    neck = body.reference_neck + size * (body.neck - np.median(body.neck, axis=0))
    joints[:, INDEX["neck"]] = neck
    zoom = _zoom(poses, fps)
    still = []
    for name, parent in PARENTS.items():
        joint, above = INDEX[name], INDEX[parent]
        if not body.driven[joint] and body.shown[joint]:
            bone = reference.joints[0, joint] - (
                body.reference_neck if parent == "neck" else reference.joints[0, above]
            )
            joints[:, joint] = joints[:, above] + bone * zoom[:, None]
            confidence[:, joint] = reference.confidence[0, joint]
            still.append(name)
            continue
        start = body.neck if parent == "neck" else poses.joints[:, above]
        joints[:, joint] = joints[:, above] + body.bone_ratio(name, size) * (poses.joints[:, joint] - start)
    if not body.driven[INDEX["neck"]] and body.shown[INDEX["neck"]]:
        confidence[:, INDEX["neck"]] = reference.confidence[0, INDEX["neck"]]
    if scale == "full":
        joints[..., 1] += _ground_shift(joints, confidence, reference)
    hands, hand_confidence = _hands(poses, reference, joints, body, size, zoom, still)
    center = joints[:, INDEX["neck"], :2] + body.head_ratio(size) * (poses.head_center - body.neck[:, :2])
    radius = (reference.head_radius[0] * zoom).astype(np.float32)
    joints[:, INDEX["nose"]] = nose_of(center, radius, poses.head_rotation, joints[:, INDEX["neck"], 2])
    confidence[:, INDEX["nose"]] = poses.head_confidence
    moved = PoseSequence(
        joints, confidence, hands, hand_confidence, center, radius, poses.head_rotation, poses.head_confidence
    )
    drawn = FACE_JOINTS if scale == "face" else HALF_JOINTS if scale == "half" else JOINTS
    missing = [name.replace("_", " ") for name in still if name in drawn]
    notes = (f"not seen in the driving clip and kept as in the photo: {', '.join(missing)}",) if missing else ()
    return only(moved, scale), notes


class _Bodies:
    """Driving and reference person side by side: which joints each shows, where the necks are, ratios of lengths."""

    def __init__(self, poses: PoseSequence, reference: PoseSequence) -> None:
        self.poses, self.reference = poses, reference
        self.driven: NDArray[np.bool_] = (poses.confidence >= VISIBLE).mean(axis=0) >= KNOWN
        self.shown: NDArray[np.bool_] = reference.confidence[0] >= VISIBLE
        index = INDEX["neck"]
        self.reference_neck = _below_head(reference)[0]
        if self.shown[index]:
            self.reference_neck = reference.joints[0, index]
        self.neck = _below_head(poses)
        if self.driven[index]:
            self.neck, _ = fill(poses.joints[:, index], poses.confidence[:, index] >= VISIBLE)

    def length_ratio(self, name: str) -> float | None:
        """Reference length over driving length of the bone that ends in `name`, None where either does not show it."""
        joint, parent = INDEX[name], INDEX[PARENTS[name]]
        if not (self.shown[[joint, parent]].all() and self.driven[[joint, parent]].all()):
            return None
        seen = (self.poses.confidence[:, [joint, parent]] >= VISIBLE).all(axis=1)
        if not seen.any():
            return None
        bones = self.poses.joints[seen, joint] - self.poses.joints[seen, parent]
        own = float(np.linalg.norm(self.reference.joints[0, joint] - self.reference.joints[0, parent]))
        return own / max(1e-3, float(np.median(np.linalg.norm(bones, axis=1))))

    def size_ratio(self) -> float:
        """The reference's size over the driving person's: shoulders and torso where both show them, and the head."""
        pairs = [("right_shoulder", "left_shoulder"), ("right_hip", "left_hip")]
        ratios = [self._both(pair) for pair in pairs]
        heads = self.poses.head_radius[self.poses.head_confidence >= VISIBLE]
        if len(heads) and self.reference.head_confidence[0] >= VISIBLE:
            ratios.append(float(self.reference.head_radius[0] / max(1e-3, float(np.median(heads)))))
        known = [ratio for ratio in ratios if ratio is not None]
        return float(np.median(known)) if known else 1.0

    def bone_ratio(self, name: str, size: float) -> float:
        """The ratio of one bone, the mean of both sides, kept near `size`."""
        other = name.replace("right", "left") if "right" in name else name.replace("left", "right")
        ratio = self._both((name, other))
        return size if ratio is None else float(np.clip(ratio, BONE_RANGE[0] * size, BONE_RANGE[1] * size))

    def head_ratio(self, size: float) -> float:
        """The ratio of neck to head."""
        away = self.poses.head_center - self.neck[:, :2]
        driving = float(np.median(np.linalg.norm(away, axis=1)))
        own = float(np.linalg.norm(self.reference.head_center[0] - self.reference_neck[:2]))
        if driving < 1e-3 or self.reference.head_confidence[0] < VISIBLE:
            return size
        return float(np.clip(own / driving, BONE_RANGE[0] * size, BONE_RANGE[1] * size))

    def _both(self, names: tuple[str, str]) -> float | None:
        known = [ratio for ratio in map(self.length_ratio, names) if ratio is not None]
        return float(np.mean(known)) if known else None


def _below_head(poses: PoseSequence) -> Float:
    """Where the neck would be under each head: [T, 3]."""
    radius = float(np.median(poses.head_radius))
    below = poses.head_center + np.array([0.0, NECK_BELOW * radius], np.float32)
    return np.concatenate([below, np.zeros((len(poses), 1), np.float32)], axis=1).astype(np.float32)


def _zoom(poses: PoseSequence, fps: float) -> Float:
    """How much larger than usual the driving head is in each frame, slow changes only: [T]."""
    radius = poses.head_radius.astype(np.float64)
    reach = max(1, round(2 * ZOOM_SECONDS * fps))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (ZOOM_SECONDS * fps)) ** 2)
    calm = np.convolve(np.pad(radius, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
    return np.clip(calm / max(1e-3, float(np.median(radius))), *ZOOM_RANGE).astype(np.float32)


def _ground_shift(joints: Float, confidence: Float, reference: PoseSequence) -> float:
    """How far down (pixels) the sequence must go for its feet to stand where the reference's do."""
    ankles = [INDEX["right_ankle"], INDEX["left_ankle"]]
    seen = confidence[:, ankles] >= VISIBLE
    known = reference.confidence[0, ankles] >= VISIBLE
    if not known.any() or not seen.any():
        return 0.0
    low = np.where(seen, joints[:, ankles, 1], -np.inf).max(axis=1)
    return float(reference.joints[0, ankles, 1][known].max() - np.percentile(low[np.isfinite(low)], 75))


def _hands(
    poses: PoseSequence,
    reference: PoseSequence,
    joints: Float,
    body: _Bodies,
    size: float,
    zoom: Float,
    still: list[str],
) -> tuple[Float, Float]:
    """The driving hands at the retargeted wrists, in the size of the reference; a still arm keeps the photo's hand."""
    hands = poses.hands.copy()
    confidence = poses.hand_confidence.copy()
    for side, name in ((RIGHT, "right_wrist"), (LEFT, "left_wrist")):
        wrist = INDEX[name]
        if name in still:
            shape = reference.hands[0, side] - reference.joints[0, wrist]
            hands[:, side] = joints[:, wrist, None] + shape * zoom[:, None, None]
            confidence[:, side] = reference.hand_confidence[0, side]
            continue
        shape = size * (poses.hands[:, side] - poses.hands[:, side, :1])
        free = joints[:, INDEX["neck"]] + size * (poses.hands[:, side, 0] - body.neck)
        attached = poses.confidence[:, wrist] >= VISIBLE
        start = np.where(attached[:, None], joints[:, wrist], free)
        hands[:, side] = start[:, None] + shape
    return hands.astype(np.float32), confidence
