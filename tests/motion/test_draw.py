"""Control maps: what is drawn where, in which colour, and the same at every size."""

import dataclasses
import time

import numpy as np
import pytest

from dreamactor.motion.draw import LIMB_COLORS, DrawnControls, draw_controls
from dreamactor.motion.pose import INDEX, LEFT, LIMBS, RIGHT, PoseSequence, nose_of

POINTS = {
    "neck": (64, 45), "right_shoulder": (50, 46), "right_elbow": (42, 60), "right_wrist": (36, 74),
    "left_shoulder": (78, 46), "left_elbow": (90, 56), "left_wrist": (98, 44),
    "right_hip": (56, 78), "right_knee": (54, 98), "right_ankle": (53, 116), "right_toe": (48, 120),
    "left_hip": (72, 78), "left_knee": (74, 98), "left_ankle": (75, 116), "left_toe": (80, 120),
}  # fmt: skip


def yaw(degrees: float) -> np.ndarray:
    """Head turned about the vertical; positive looks to the left of the image."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)


def standing(frames: int = 1, rotation: np.ndarray | None = None) -> PoseSequence:
    pose = PoseSequence.empty(frames)
    for name, point in POINTS.items():
        pose.joints[:, INDEX[name], :2] = point
    rotations = np.tile(np.eye(3, dtype=np.float32) if rotation is None else rotation, (frames, 1, 1))
    center, radius = np.tile(np.float32([64, 26]), (frames, 1)), np.full(frames, 13, np.float32)
    pose.joints[:, INDEX["nose"]] = nose_of(center, radius, rotations)
    return dataclasses.replace(
        pose,
        confidence=np.ones_like(pose.confidence),
        head_center=center,
        head_radius=radius,
        head_rotation=rotations,
        head_confidence=np.ones(frames, np.float32),
    )


def test_every_limb_has_its_colour_at_its_middle() -> None:
    control = draw_controls(standing(), 128, 128)[0]
    joints = standing().joints[0]
    for color, (a, b) in zip(LIMB_COLORS, LIMBS, strict=True):
        x, y = ((joints[a] + joints[b]) / 2)[:2].round().astype(int)
        assert np.abs(control[y, x, :3].astype(int) - color).max() < 60
    assert not control[:8].any()
    assert not control[:, :30].any()


def test_the_sphere_colour_is_the_normal_in_head_coordinates() -> None:
    facing = draw_controls(standing(), 128, 128)[0, ..., 3:]
    assert facing[26, 64].tolist() == [128, 128, 255]
    assert facing[26, 75, 0] > 220  # the person's left is red
    assert facing[15, 64, 1] > 220  # the crown is green
    turned = draw_controls(standing(rotation=yaw(90)), 128, 128)[0, ..., 3:]
    assert turned[26, 64, 0] > 250  # looking to the image's left, the person's left ear faces us
    assert turned[26, 53, 2] > 220
    area = (facing.sum(axis=-1) > 0).sum()
    assert area == pytest.approx(np.pi * 13.5**2, rel=0.06)


@pytest.mark.parametrize("nearer", ["right", "left"])
def test_the_nearer_arm_is_drawn_over_the_other(nearer: str) -> None:
    pose = PoseSequence.empty(1)
    places = {"right_elbow": (20, 64), "right_wrist": (108, 64), "left_elbow": (64, 20), "left_wrist": (64, 108)}
    for name, place in places.items():
        pose.joints[0, INDEX[name]] = (*place, -10 if name.startswith(nearer) else 10)
        pose.confidence[0, INDEX[name]] = 1
    color = LIMB_COLORS[LIMBS.index((INDEX[f"{nearer}_elbow"], INDEX[f"{nearer}_wrist"]))]
    assert draw_controls(pose, 128, 128)[0, 64, 64, :3].tolist() == list(color)


@pytest.mark.parametrize(("side", "x"), [(RIGHT, 20), (LEFT, 100)])
def test_each_hand_is_drawn_where_it_is(side: int, x: int) -> None:
    pose = PoseSequence.empty(1)
    pose.hands[0, side, :, 0], pose.hands[0, side, :, 1] = x, np.linspace(30, 90, 21)
    pose.hand_confidence[0, side] = 1
    drawn = draw_controls(pose, 128, 128)[0, ..., :3].any(axis=(0, 2))
    assert np.flatnonzero(drawn).mean() == pytest.approx(x, abs=1)


def test_what_is_not_seen_is_not_drawn() -> None:
    pose = standing()
    pose.confidence[:, [INDEX["left_knee"], INDEX["right_wrist"]]] = 0.1
    pose.head_confidence[:] = 0.0
    control = draw_controls(pose, 128, 128)[0]
    assert not control[..., 3:].any()
    assert not control[105:112, 72:78].any()
    assert not control[66:69, 36:41].any()
    assert control[85, 54, :3].any()
    assert not draw_controls(PoseSequence.empty(2), 64, 64).any()


def test_larger_maps_are_the_same_picture() -> None:
    small = draw_controls(standing(), 128, 128)[0].astype(float)
    large = draw_controls(standing().transformed(4.0, (1.5, 1.5)), 512, 512)[0].astype(float)
    shrunk = large.reshape(128, 4, 128, 4, 6).mean(axis=(1, 3))
    assert np.abs(shrunk - small).mean() < 1.5


def test_points_outside_or_not_finite_do_no_harm() -> None:
    pose = standing(2)
    pose.joints[0, INDEX["left_wrist"]] = (1e9, -1e9, 0)
    pose.joints[1, INDEX["left_wrist"]] = np.nan
    pose.head_center[0] = (-500, 26)
    pose.head_center[1] = (0, 0)
    control = draw_controls(pose, 128, 128)
    assert not control[0, ..., 3:].any()
    assert control[1, 5, 5, 3:].any()
    assert control[1, 98, 54, :3].any()


def test_drawing_repeats_exactly_and_is_fast() -> None:
    poses = standing(40)
    first = draw_controls(poses, 128, 128)
    start = time.process_time()
    second = draw_controls(poses, 128, 128)
    assert (time.process_time() - start) / 40 < 0.005
    assert np.array_equal(first, second)


def test_a_wrong_shape_is_named() -> None:
    pose = standing()
    with pytest.raises(ValueError, match=r"head_center has shape \(1, 3\), expected \(1, 2\)"):
        dataclasses.replace(pose, head_center=np.zeros((1, 3), np.float32))


def test_maps_drawn_when_they_are_taken_are_the_same() -> None:
    poses = standing(5)
    poses.joints[:, :, 0] += np.arange(5)[:, None]
    whole, drawn = draw_controls(poses, 96, 64), DrawnControls(poses, 96, 64)
    assert (len(drawn), drawn.shape) == (len(poses), whole.shape)
    assert drawn.nbytes < whole.nbytes / 10
    np.testing.assert_array_equal(drawn[1:3], whole[1:3])
    np.testing.assert_array_equal(np.asarray(drawn), whole)
