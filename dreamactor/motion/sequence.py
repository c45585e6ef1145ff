"""From what was seen frame by frame to one steady pose sequence."""

from __future__ import annotations

import dataclasses

import numpy as np

from dreamactor.motion import body as bodies
from dreamactor.motion.landmarks import Seen, pixels_per_metre
from dreamactor.motion.pose import INDEX, JOINTS, LEFT, RIGHT, VISIBLE, Float, PoseSequence, nose_of
from dreamactor.motion.smooth import Mask, fill, rotations, smooth
from dreamactor.motion.track import Followed

SHORT_GAP = 0.5  # seconds for which a joint that is out of sight is interpolated
MARGIN = 0.02  # share of the picture that a joint may lie outside and still count as seen
SWAPPED = 0.6  # a pose whose sides, exchanged, lie this much nearer to the frame before was seen the wrong way round
SOURCES = {
    "right_shoulder": bodies.RIGHT_SHOULDER, "right_elbow": bodies.RIGHT_ELBOW, "right_wrist": bodies.RIGHT_WRIST,
    "left_shoulder": bodies.LEFT_SHOULDER, "left_elbow": bodies.LEFT_ELBOW, "left_wrist": bodies.LEFT_WRIST,
    "right_hip": bodies.RIGHT_HIP, "right_knee": bodies.RIGHT_KNEE, "right_ankle": bodies.RIGHT_ANKLE,
    "left_hip": bodies.LEFT_HIP, "left_knee": bodies.LEFT_KNEE, "left_ankle": bodies.LEFT_ANKLE,
    "right_toe": bodies.RIGHT_TOE, "left_toe": bodies.LEFT_TOE,
}  # fmt: skip
_TARGETS = [INDEX[name] for name in SOURCES]


def pose_of(seen: Seen | None, height: int, width: int) -> PoseSequence:
    """One frame's pose in the pixels of a height x width picture; empty where nobody was seen."""
    pose = PoseSequence.empty(1)
    if seen is None:
        return pose
    head, depth, sure = seen.head, 0.0, 1.0
    if seen.body is not None:
        depth = _add_body(pose, seen.body, height, width)
        if seen.face is None:
            sure = float((seen.body.visible * seen.body.present)[: bodies.MOUTH_RIGHT + 1].max())
    for side in (RIGHT, LEFT):
        hand = seen.hands[side]
        if hand is not None:
            pose.hands[0, side], pose.hand_confidence[0, side] = hand.points, hand.score
    pose.head_center[0], pose.head_radius[0] = head.center[:2], head.radius
    pose.head_rotation[0], pose.head_confidence[0] = head.rotation, sure
    pose.joints[0, INDEX["nose"]] = nose_of(pose.head_center, pose.head_radius, pose.head_rotation, depth)[0]
    pose.confidence[0, INDEX["nose"]] = sure
    return pose


def _add_body(pose: PoseSequence, body: bodies.Body, height: int, width: int) -> float:
    """Writes the joints of a body into frame 0; returns the depth of the head."""
    scale = pixels_per_metre(body)
    rows = list(SOURCES.values())
    x, y = body.points[rows, 0], body.points[rows, 1]
    inside = (abs(x / width - 0.5) < 0.5 + MARGIN) & (abs(y / height - 0.5) < 0.5 + MARGIN)
    pose.joints[0, _TARGETS] = np.stack([x, y, body.world[rows, 2] * scale], axis=1)
    pose.confidence[0, _TARGETS] = body.visible[rows] * body.present[rows] * inside
    shoulders = [INDEX["right_shoulder"], INDEX["left_shoulder"]]
    pose.joints[0, INDEX["neck"]] = pose.joints[0, shoulders].mean(axis=0)
    pose.confidence[0, INDEX["neck"]] = pose.confidence[0, shoulders].min()
    return float(body.world[[bodies.LEFT_EAR, bodies.RIGHT_EAR], 2].mean()) * scale


def to_sequence(followed: Followed, height: int, width: int, fps: float) -> PoseSequence:
    """A steady sequence: sides seen the wrong way round put right, gaps filled, jitter smoothed.

    Frames in which the person was lost are interpolated however long they are; single joints only for `SHORT_GAP`,
    since a limb out of sight for longer is best not drawn.
    """
    raw = PoseSequence.concatenate([pose_of(seen, height, width) for seen in followed.seen])
    raw, turned = _sides_put_right(raw, followed.found)
    for frame in turned:
        seen = followed.seen[frame]
        if seen is not None and seen.face is None:
            raw.head_confidence[frame] = 0.0  # the body that had its arms exchanged had its head turned round too
    # retargeting places a joint that is interpolated from its neighbour, which must not lie at the origin meanwhile
    has_body = np.array([seen is not None and seen.body is not None for seen in followed.seen])
    joints, nose = fill(raw.joints, has_body)[0], INDEX["nose"]
    joints[:, nose] = raw.joints[:, nose]  # a face has one, too
    raw = dataclasses.replace(raw, joints=joints)
    found = followed.found
    short = SHORT_GAP * fps
    seen_heads = raw.head_radius[raw.head_confidence >= VISIBLE]
    unit = float(np.median(seen_heads)) if len(seen_heads) else 0.1 * height

    def steady(values: Float, confidence: Float) -> tuple[Float, Float]:
        good = confidence >= VISIBLE
        path, good = _across(values, good, found, short)
        sure, _ = fill(confidence, confidence >= VISIBLE)
        path = smooth(path.reshape(len(path), -1), good, fps, unit).reshape(path.shape)
        return path, np.where(good, np.maximum(sure, VISIBLE), 0.0).astype(np.float32)

    joints, confidence = raw.joints.copy(), raw.confidence.copy()
    for joint in range(len(JOINTS)):
        joints[:, joint], confidence[:, joint] = steady(raw.joints[:, joint], raw.confidence[:, joint])
    hands, hand_confidence = raw.hands.copy(), raw.hand_confidence.copy()
    for side in (RIGHT, LEFT):
        hands[:, side], hand_confidence[:, side] = steady(raw.hands[:, side], raw.hand_confidence[:, side])
    good = raw.head_confidence >= VISIBLE
    center, known = fill(raw.head_center, good)
    radius, _ = fill(raw.head_radius, good)
    rotation, _ = fill(raw.head_rotation, good)
    return PoseSequence(
        joints=joints,
        confidence=confidence,
        hands=hands,
        hand_confidence=hand_confidence,
        head_center=smooth(center, known, fps, unit),
        head_radius=smooth(radius[:, None], known, fps, 4 * unit)[:, 0],
        head_rotation=rotations(smooth(rotation.reshape(-1, 9), known, fps, 1.0).reshape(-1, 3, 3)),
        head_confidence=np.where(known, np.maximum(raw.head_confidence, VISIBLE), 0).astype(np.float32),
    )


def _across(values: Float, good: Mask, found: Mask, short: float) -> tuple[Float, Mask]:
    """Fills the frames in which the person was lost between two that show this joint, then other short gaps."""
    everywhere, _ = fill(values, good)
    before, after = _nearest_found(good, found)
    bridged = ~found & before & after
    values = np.where(bridged.reshape(-1, *[1] * (values.ndim - 1)), everywhere, values)
    return fill(values, good | bridged, short, hold=False)


def _nearest_found(good: Mask, found: Mask) -> tuple[Mask, Mask]:
    """For each frame whether the joint was seen when the person was last found, and when next."""
    frames = np.arange(len(found))
    known = np.flatnonzero(found)
    place = np.searchsorted(known, frames)
    last = known[np.clip(place - 1, 0, len(known) - 1)]
    following = known[np.clip(place, 0, len(known) - 1)]
    return good[last], good[following]


def _sides_put_right(pose: PoseSequence, found: Mask) -> tuple[PoseSequence, list[int]]:
    """Undoes frames in which right and left arms, or legs, were exchanged; hands go with the arms.

    Returns the pose and the frames whose arms it turned.
    """
    arms: list[int] = []
    joints, confidence = pose.joints.copy(), pose.confidence.copy()
    hands, hand_confidence = pose.hands.copy(), pose.hand_confidence.copy()
    for parts in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle", "toe")):
        sides = [[INDEX[f"{side}_{part}"] for part in parts] for side in ("right", "left")]
        straight, crossed = sides[0] + sides[1], sides[1] + sides[0]
        turned = _exchanged(joints[:, straight], confidence[:, straight], found)
        joints[np.ix_(turned, straight)] = joints[np.ix_(turned, crossed)]
        confidence[np.ix_(turned, straight)] = confidence[np.ix_(turned, crossed)]
        if "wrist" in parts:
            arms = turned
            hands[turned] = hands[turned][:, ::-1]
            hand_confidence[turned] = hand_confidence[turned][:, ::-1]
    put_right = dataclasses.replace(
        pose, joints=joints, confidence=confidence, hands=hands, hand_confidence=hand_confidence
    )
    return put_right, arms


def _exchanged(joints: Float, confidence: Float, found: Mask) -> list[int]:
    """Frames whose two sides (the two halves of `joints` [T, 2N, 3]) are the wrong way round.

    Judged by the frame before, after it was put right itself; if that turns most of the clip, the rest is wrong.
    """
    order = np.roll(np.arange(joints.shape[1]), joints.shape[1] // 2)
    swapped = np.zeros(len(joints), bool)
    last: int | None = None
    for frame in np.flatnonzero(found & (confidence.max(axis=1) >= VISIBLE)).tolist():
        if last is not None:
            before = joints[last][order] if swapped[last] else joints[last]
            weight = np.minimum(confidence[frame], confidence[last])
            straight = float((weight * np.linalg.norm(joints[frame] - before, axis=1)).sum())
            crossed = float((weight * np.linalg.norm(joints[frame][order] - before, axis=1)).sum())
            swapped[frame] = crossed < SWAPPED * straight and float(weight.sum()) > 1.5
        last = frame
    if swapped.sum() > 0.5 * found.sum():
        swapped = ~swapped & found
    return [int(frame) for frame in np.flatnonzero(swapped)]
