"""What a character does over a clip: joints, hands, head and face; metres, camera axes (x right, y down, z away)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dreamactor.motion.pose import INDEX, JOINTS
from dreamactor.motion.retarget import Scale
from dreamactor.training.characters.character import Body
from dreamactor.training.characters.mocap import (
    LYING,
    Array,
    Motion,
    axis_rotation,
    blend,
    mirror,
    quaternion_matrix,
    resample,
)
from dreamactor.training.characters.signals import Expression, make_expression, wander

TO_CAMERA = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Mocap axes (x forward, y up, z right) to camera axes, for a body that faces the camera."""

GESTURES = np.array([
    [0.05, -0.48, 0.05], [0.05, -0.48, 0.05], [0.12, -0.3, 0.12], [0.3, -0.1, 0.0], [0.35, -0.15, -0.05],
    [0.35, 0.05, -0.1], [0.3, 0.2, 0.05], [0.25, 0.32, 0.12], [0.1, 0.42, 0.15], [0.05, 0.5, 0.05],
    [0.1, 0.1, 0.4], [0.05, 0.0, 0.5], [0.2, 0.02, -0.28], [0.3, -0.25, -0.12], [0.42, 0.1, 0.12], [0.02, -0.18, 0.2],
])  # fmt: skip
"""Places of a wrist from its shoulder: forward, up and outward in metres (hanging, hip, chest, face, raised, aside)."""


@dataclass(frozen=True)
class Performance:
    """T frames: joints [T, 16, 3], hands [T, 2, 21, 3], head_center [T, 3], rotations [T, 3, 3] of head, chest and
    root (identity faces the camera), and the expression."""

    joints: Array
    hands: Array
    head_center: Array
    head: Array
    chest: Array
    root: Array
    expression: Expression

    def __len__(self) -> int:
        return len(self.joints)


@dataclass(frozen=True)
class Score:
    """A motion without a body: any character can play it."""

    motion: Motion
    yaw: Array
    tilt: Array
    head: Array  # [T, 3, 3] relative to the neck (the chest, turned half as far as the neck is), in camera axes
    gestures: tuple[Array, Array] | None  # right and left wrist from its shoulder [T, 3]
    fingers: Array  # [T, 2, 5]: curl, spread, roll, bend, thumb
    expression: Expression


def make_score(
    rng: np.random.Generator,
    clips: dict[str, tuple[float, Motion]],
    frames: int,
    fps: float,
    framing: Scale,
) -> Score:
    """Draws a motion at random: captured, gestured or both; body yaw, head turns and face go with it."""
    captured = rng.random() < {"face": 0.25, "half": 0.45, "full": 0.7}[framing]
    motion = _captured(rng, clips, frames, fps, upright=framing != "full")
    if not captured or framing != "full":
        motion = calm(motion, 0.12 if not captured else 0.25 if framing == "face" else 0.4)
    gestures = None
    quiet = framing == "face" and rng.random() < 0.5  # arms down, so that the face is seen
    if not quiet and (not captured or rng.random() < 0.35):
        gestures = _gesture(rng, frames, fps), _gesture(rng, frames, fps)
    head = np.deg2rad(wander(rng, frames, fps, 0.9, 3, hold=0.3)) * (
        np.array([26.0, 11.0, 8.0]) if framing == "face" else np.array([20.0, 9.0, 7.0])
    )
    return Score(
        motion=motion,
        yaw=_body_yaw(rng, frames, fps, framing),
        tilt=np.deg2rad(np.clip(rng.normal(0, 4), -9, 9)) * np.ones(frames),
        head=axis_rotation(1, head[:, 0]) @ axis_rotation(0, head[:, 1]) @ axis_rotation(2, head[:, 2]),
        gestures=gestures,
        fingers=wander(rng, frames, fps, 0.9, 10).reshape(frames, 2, 5),
        expression=make_expression(rng, frames, fps),
    )


def _captured(
    rng: np.random.Generator, clips: dict[str, tuple[float, Motion]], frames: int, fps: float, upright: bool
) -> Motion:
    names = sorted(name for name in clips if not (upright and name in LYING | {"cartwheel", "backflip"})) or sorted(
        clips
    )

    def one() -> Motion:
        rate, clip = clips[names[rng.integers(len(names))]]
        motion = resample(clip, rate, fps, frames, float(rng.uniform(0, 5)), float(rng.uniform(0.3, 0.9)))
        return mirror(motion) if rng.random() < 0.5 else motion

    motion = one()
    if rng.random() < 0.35:
        motion = blend(motion, one(), np.full(frames, rng.uniform(0.15, 0.5)))
    return motion


def calm(motion: Motion, share: float) -> Motion:
    """Most of the way to standing still: `share` of the captured movement stays."""
    still = {}
    for name, values in motion.rotations.items():
        rest = np.zeros_like(values)
        if values.ndim == 2:
            rest[:, 0] = 1
            mixed = values * np.sign(values[:, :1] + 1e-9) * share + rest * (1 - share)
            still[name] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        else:
            still[name] = share * values
    middle = motion.root.mean(axis=0)
    return Motion(np.array([0.0, 0.85, 0.0]) + share * 0.5 * (motion.root - middle), still)


def _body_yaw(rng: np.random.Generator, frames: int, fps: float, framing: Scale) -> Array:
    kind = rng.random()
    spread = 20 if framing == "face" else 28
    base = rng.normal(0, spread) if kind < 0.88 else rng.uniform(-180, 180)
    sway = 7 * wander(rng, frames, fps, 0.5)[:, 0]
    turn = rng.uniform(-70, 70) * np.arange(frames) / fps if rng.random() < 0.14 else 0.0
    return np.deg2rad(base + sway + turn)


def _gesture(rng: np.random.Generator, frames: int, fps: float) -> Array:
    rate = float(rng.uniform(0.5, 1.5))
    targets = wander(rng, frames, fps, rate, len(GESTURES), hold=0.35)
    weights = np.exp(3.0 * targets)  # one place wins at each key, eased between
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ GESTURES + 0.04 * wander(rng, frames, fps, 1.5, 3)


def perform(body: Body, score: Score) -> Performance:
    """Plays `score` on `body` by forward kinematics; gesturing arms by two-bone inverse kinematics."""
    local = {k: _local(v) for k, v in score.motion.rotations.items()}
    root = local["root"]
    heading = np.arctan2(-root[:, 2, 0].mean(), root[:, 0, 0].mean())
    root = axis_rotation(1, np.full(len(root), -heading)) @ root
    root = axis_rotation(2, score.tilt) @ axis_rotation(1, score.yaw) @ root
    position = score.motion.root - np.array([1.0, 0.0, 1.0]) * _trend(score.motion.root)
    chest = root @ local["chest"]
    joints: dict[str, Array] = {}
    chest_at = position + _along(root, 0, body.spine, 0)
    shoulders_at = chest_at + _along(chest, -0.02, body.chest, 0)
    for side, sign in (("right", 1.0), ("left", -1.0)):
        hip = position + _along(root, 0, 0, sign * body.hip)
        thigh = root @ local[f"{side}_hip"]
        knee = hip + _along(thigh, 0, -body.thigh, 0)
        shin = thigh @ local[f"{side}_knee"]
        ankle = knee + _along(shin, 0, -body.shin, 0)
        foot = shin @ local[f"{side}_ankle"]
        joints |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}
        joints[f"{side}_toe"] = ankle + _along(foot, body.foot, -0.05, sign * 0.02)
        joints |= _arm(body, score, side, sign, chest, shoulders_at, local)
    joints["neck"] = (joints["right_shoulder"] + joints["left_shoulder"]) / 2
    chest_camera = TO_CAMERA @ chest @ TO_CAMERA.T
    neck_camera = TO_CAMERA @ (chest @ _half(local["neck"])) @ TO_CAMERA.T
    head = neck_camera @ score.head
    centre = joints["neck"] @ TO_CAMERA.T + np.einsum("tij,j->ti", chest_camera, np.array([0.0, -body.neck, 0.0]))
    centre = centre + np.einsum("tij,j->ti", head, np.array([0.0, -0.93 * body.head, -0.2 * body.head]))
    turned = {name: place @ TO_CAMERA.T for name, place in joints.items()}
    turned["nose"] = centre - head[:, :, 2] * body.head
    joints_camera = np.stack([turned[name] for name in JOINTS], axis=1)
    hands = np.stack([_hand(body, score, joints_camera, chest_camera, side) for side in range(2)], axis=1)
    root_camera = TO_CAMERA @ root @ TO_CAMERA.T
    return Performance(joints_camera, hands, centre, head, chest_camera, root_camera, score.expression)


def _local(values: Array) -> Array:
    return quaternion_matrix(values) if values.ndim == 2 else axis_rotation(2, values)


def _half(rotation: Array) -> Array:
    """About half of a small rotation: the mean with the identity, made orthogonal again."""
    u, _, v = np.linalg.svd(rotation + np.eye(3))
    return np.asarray(u @ v)


def _along(rotation: Array, x: float, y: float, z: float) -> Array:
    return np.asarray(rotation @ np.array([x, y, z]))


def _trend(position: Array) -> Array:
    """The straight line through a path [T, 3]: what is taken away so that a walk stays in the picture."""
    time = np.arange(len(position)) - (len(position) - 1) / 2
    slope = (time @ position) / max(1.0, float(time @ time))
    return np.asarray(position.mean(axis=0) + time[:, None] * slope)


def _arm(
    body: Body, score: Score, side: str, sign: float, chest: Array, top: Array, local: dict[str, Array]
) -> dict[str, Array]:
    shoulder = top + _along(chest, 0, 0.02, sign * body.shoulder)
    if score.gestures is None:
        upper = chest @ local[f"{side}_shoulder"]
        elbow = shoulder + _along(upper, 0, -body.upper_arm, 0)
        wrist = elbow + _along(upper @ local[f"{side}_elbow"], 0, -body.forearm, 0)
        return {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}
    target = score.gestures[0 if side == "right" else 1] * np.array([1.0, 1.0, sign])
    target = target * (body.upper_arm + body.forearm) / 0.53
    reach = np.linalg.norm(target, axis=1, keepdims=True)
    target = target / np.maximum(reach, 1e-6)
    reach = np.clip(reach, 0.35 * body.upper_arm, 0.995 * (body.upper_arm + body.forearm))
    pole = np.array([-0.45, -0.75, sign * 0.6])
    pole = pole - target * (target @ pole)[:, None]
    pole /= np.maximum(np.linalg.norm(pole, axis=1, keepdims=True), 1e-6)
    along = (body.upper_arm**2 - body.forearm**2 + reach**2) / (2 * reach)
    aside = np.sqrt(np.maximum(body.upper_arm**2 - along**2, 0))
    elbow = shoulder + np.einsum("tij,tj->ti", chest, target * along + pole * aside)
    wrist = shoulder + np.einsum("tij,tj->ti", chest, target * reach)
    return {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}


_FINGER_BASE = np.array([[0.10, -0.36], [0.46, -0.24], [0.48, -0.04], [0.46, 0.15], [0.42, 0.32]])  # along, across
_FINGER_LENGTH = np.array([0.17, 0.17, 0.19, 0.175, 0.14])


def _hand(body: Body, score: Score, joints: Array, chest: Array, side: int) -> Array:
    """21 landmarks [T, 21, 3] of the right (0) or left (1) hand: a palm along the forearm and five curling fingers."""
    name = ("right", "left")[side]
    elbow, wrist = joints[:, INDEX[f"{name}_elbow"]], joints[:, INDEX[f"{name}_wrist"]]
    curl, spread, roll, bend, thumb = np.moveaxis(score.fingers[:, side], -1, 0)
    forward = _unit(wrist - elbow)
    inward = chest[:, :, 0] * (1.0 if side == 0 else -1.0)  # to the middle of the body
    normal = _unit(inward - forward * np.sum(inward * forward, axis=1, keepdims=True))
    across = np.cross(forward, normal)
    angle = (0.8 * roll)[:, None]
    normal, across = normal * np.cos(angle) + across * np.sin(angle), across * np.cos(angle) - normal * np.sin(angle)
    swing = (0.35 * bend)[:, None]
    forward, normal = forward * np.cos(swing) + normal * np.sin(swing), normal * np.cos(swing) - forward * np.sin(swing)
    if side == 1:
        across = -across
    size = body.hand
    points = np.empty((len(joints), 21, 3))
    points[:, 0] = wrist
    fold = np.clip(0.35 + 0.45 * curl, 0.0, 1.25)
    fan = 1 + 0.25 * np.clip(spread, -1, 1.5)
    for finger in range(5):
        base, out = _FINGER_BASE[finger]
        at = wrist + size * (forward * base + across * (out * (0.9 if finger == 0 else 1.0) * fan)[:, None])
        points[:, 4 * finger + 1] = at
        aim = _unit(forward + across * (out * 0.55 * fan * (1.8 if finger == 0 else 1.0))[:, None])
        turn = np.zeros(len(joints))
        for bone in range(3):
            turn = turn + (fold if finger else 0.35 * np.clip(0.5 + thumb, 0, 2))
            step = aim * np.cos(turn)[:, None] + normal * np.sin(turn)[:, None]
            at = at + step * (size * _FINGER_LENGTH[finger] * (1.15, 0.95, 0.8)[bone])
            points[:, 4 * finger + 2 + bone] = at
    return points


def _unit(v: Array) -> Array:
    return np.asarray(v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-6))
