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
TRUNK = ("neck", "right_shoulder", "left_shoulder", "right_hip", "left_hip")
NECK_BELOW = 1.9  # head radii from the middle of the head down to the neck, where no shoulder shows it
KNOWN = 0.15  # share of the frames in which a joint must be seen to be driven
BONE_RANGE = 0.6, 1.6  # a bone's own ratio, relative to the whole body's
ZOOM_RANGE = 0.6, 1.6  # growth of the head over the clip
SLOW_SECONDS = 0.5  # slower changes than this are of place or distance; faster ones are motion, or noise
ROOM = 0.2  # share of the picture the neck may wander from its place for long
CLEAR = 0.5  # confidence from which a joint of the reference decides the scale


def choose_scale(reference: PoseSequence) -> Scale:
    """What of the body is driven: what the reference shows."""
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
    poses: PoseSequence, reference: PoseSequence, scale: Scale, fps: float, picture: tuple[int, int]
) -> tuple[PoseSequence, tuple[str, ...]]:
    """Puts the motion of `poses` (driving pixels) on `reference` (one frame, in a `picture` of (height, width) pixels).

    Returns the sequence in the reference's picture, reduced to `scale`, and notes on limbs that could not be driven.
    """
    body = _Bodies(poses, reference)
    size = body.size_ratio()
    joints = np.zeros_like(poses.joints)
    confidence = body.confidence()
    wander = np.asarray(size * (body.neck - np.median(body.neck, axis=0)), np.float32)
    path, follows = _kept_in_view(wander, picture, fps)
    joints[:, INDEX["neck"]] = body.reference_neck + path
    zoom = _zoom(poses, fps)
    still = []
    for name, parent in PARENTS.items():
        joint, above = INDEX[name], INDEX[parent]
        if not body.driven[joint] and body.shown[joint]:
            bone = reference.joints[0, joint] - (
                body.reference_neck if parent == "neck" else reference.joints[0, above]
            )
            joints[:, joint] = joints[:, above] + bone * zoom[:, None]
            confidence[:, joint] = np.where(confidence[:, above] >= VISIBLE, reference.confidence[0, joint], 0)
            still.append(name)
            continue
        start = body.neck if parent == "neck" else body.joints[:, above]
        joints[:, joint] = joints[:, above] + body.bone_ratio(name, size) * (body.joints[:, joint] - start)
        confidence[:, joint] *= confidence[:, above] >= VISIBLE  # no limb hangs in the air
    if scale == "full":
        joints[..., 1] += _ground_shift(joints, confidence, reference)
    hands, hand_confidence = _hands(poses, reference, joints, body, size, zoom, still)
    center = joints[:, INDEX["neck"], :2] + body.head_offset(size, posture=scale == "full")
    radius = (reference.head_radius[0] * zoom).astype(np.float32)
    joints[:, INDEX["nose"]] = nose_of(center, radius, poses.head_rotation, joints[:, INDEX["neck"], 2])
    confidence[:, INDEX["nose"]] = poses.head_confidence
    moved = PoseSequence(
        joints, confidence, hands, hand_confidence, center, radius, poses.head_rotation, poses.head_confidence
    )
    drawn = FACE_JOINTS if scale == "face" else HALF_JOINTS if scale == "half" else JOINTS
    missing = [name.replace("_", " ") for name in still if name in drawn]
    notes = [f"not seen in the driving clip and kept as in the photo: {', '.join(missing)}"] if missing else []
    if follows:
        notes.append("the driving person moves further than the photo has room; the view follows them")
    return only(moved, scale), tuple(notes)


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
        self.joints = poses.joints.copy()
        for joint in map(INDEX.__getitem__, TRUNK):
            if self.driven[joint]:
                self.joints[:, joint], _ = fill(poses.joints[:, joint], poses.confidence[:, joint] >= VISIBLE)
        self.neck = self.joints[:, index] if self.driven[index] else _below_head(poses)

    def confidence(self) -> Float:
        """The driving confidences [T, J], the trunk's steady over the clip: seen now and then, it is drawn throughout.

        Where the driving clip shows no neck, the reference's stands in.
        """
        sure = self.poses.confidence.copy()
        for joint in map(INDEX.__getitem__, TRUNK):
            seen = sure[:, joint] >= VISIBLE
            sure[:, joint] = sure[seen, joint].mean() if self.driven[joint] else 0.0
        if not self.driven[INDEX["neck"]]:
            sure[:, INDEX["neck"]] = self.reference.confidence[0, INDEX["neck"]]
        return sure

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

    def head_offset(self, size: float, posture: bool) -> Float:
        """From neck to middle of the head [T, 2]: the driving `posture`, or the reference's, moved as theirs moves."""
        away = self.poses.head_center - self.neck[:, :2]
        usual = np.median(away, axis=0)
        own = self.reference.head_center[0] - self.reference_neck[:2]
        if self.reference.head_confidence[0] < VISIBLE:
            return np.asarray(size * away, np.float32)
        length = float(np.linalg.norm(own)) / max(1e-3, float(np.linalg.norm(usual)))
        ratio = float(np.clip(length, BONE_RANGE[0] * size, BONE_RANGE[1] * size))
        return np.asarray(ratio * away if posture else own + ratio * (away - usual), np.float32)

    def _both(self, names: tuple[str, str]) -> float | None:
        known = [ratio for ratio in map(self.length_ratio, names) if ratio is not None]
        return float(np.mean(known)) if known else None


def _below_head(poses: PoseSequence) -> Float:
    """Where the neck would be under each head: [T, 3]."""
    radius = float(np.median(poses.head_radius))
    below = poses.head_center + np.array([0.0, NECK_BELOW * radius], np.float32)
    return np.concatenate([below, np.zeros((len(poses), 1), np.float32)], axis=1).astype(np.float32)


def _kept_in_view(path: Float, picture: tuple[int, int], fps: float) -> tuple[Float, bool]:
    """Takes as much of the slow part out of a `path` [T, 3] of offsets as leads out of the picture; whether any was."""
    reach = np.array([ROOM * picture[1], ROOM * picture[0]])
    slow = np.stack([_calm(path[:, axis], fps) for axis in range(2)], axis=1)
    furthest = abs(slow).max(axis=0)
    kept = np.minimum(1.0, reach / np.maximum(furthest, 1e-6))
    result = path.copy()
    result[:, :2] -= (slow * (1 - kept)).astype(np.float32)
    return result, bool((kept < 1).any())


def _calm(values: Float, fps: float) -> NDArray[np.float64]:
    """`values` [T] without what changes faster than `SLOW_SECONDS`."""
    reach = max(1, round(2 * SLOW_SECONDS * fps))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (SLOW_SECONDS * fps)) ** 2)
    longer = np.pad(values.astype(np.float64), reach, mode="reflect", reflect_type="odd")  # a trend goes on
    return np.convolve(longer, kernel / kernel.sum(), mode="valid")


def _zoom(poses: PoseSequence, fps: float) -> Float:
    """How much larger than usual the driving head is in each frame, slow changes only: [T]."""
    share = _calm(poses.head_radius, fps) / max(1e-3, float(np.median(poses.head_radius)))
    return np.clip(share, *ZOOM_RANGE).astype(np.float32)


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
