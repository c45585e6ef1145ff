"""Sides seen the wrong way round, limbs out of sight, and telling people apart by their clothes."""

import dataclasses

import cv2
import numpy as np
import pytest

from dreamactor.motion import body as bodies
from dreamactor.motion.body import POINTS, Body
from dreamactor.motion.face import Face
from dreamactor.motion.hand import Hand
from dreamactor.motion.landmarks import Seen
from dreamactor.motion.look import appearance, same_look
from dreamactor.motion.pose import INDEX, LEFT, RIGHT
from dreamactor.motion.roi import Region
from dreamactor.motion.sequence import pose_of, to_sequence
from dreamactor.motion.track import Followed

RIGHT_SIDE, LEFT_SIDE = (98.0, 60.0), (142.0, 60.0)


def body(shift: float = 0.0, swapped: bool = False, hidden: tuple[int, ...] = ()) -> Body:
    """A person facing us, 100 pixels a metre, standing at x = 120 + shift."""
    world = np.zeros((POINTS, 3), np.float32)
    places = {
        bodies.RIGHT_SHOULDER: (-0.2, -0.5), bodies.RIGHT_ELBOW: (-0.3, -0.25), bodies.RIGHT_WRIST: (-0.35, 0.0),
        bodies.RIGHT_HIP: (-0.12, 0), bodies.RIGHT_KNEE: (-0.12, 0.45), bodies.RIGHT_ANKLE: (-0.12, 0.85),
        bodies.RIGHT_TOE: (-0.15, 0.9), bodies.RIGHT_EAR: (-0.08, -0.75), bodies.RIGHT_EYE: (-0.03, -0.78),
    }  # fmt: skip
    for index, (x, y) in places.items():
        world[index, :2] = x, y
        world[index - 1, :2] = -x, y  # the model's left points come one before its right
    world[bodies.NOSE] = 0, -0.73, -0.12
    if swapped:
        for index in places:
            world[[index - 1, index]] = world[[index, index - 1]]
    points = world * 100
    points[:, :2] += (120 + shift, 110)
    visible = np.ones(POINTS, np.float32)
    visible[list(hidden)] = 0.05
    return Body(points, visible, np.ones(POINTS, np.float32), world, 1.0, Region(120, 110, 250))


def followed(seen: list[Body | None]) -> Followed:
    return Followed(tuple(Seen(one) if one else None for one in seen), 0)


def test_joints_are_placed_in_pixels() -> None:
    pose = pose_of(Seen(body()), 240, 240)
    assert pose.joints[0, INDEX["right_shoulder"], :2] == pytest.approx((100, 60), abs=0.1)
    assert pose.joints[0, INDEX["neck"], :2] == pytest.approx((120, 60), abs=0.1)
    assert pose.joints[0, INDEX["left_toe"], :2] == pytest.approx((135, 200), abs=0.1)
    assert (pose.confidence[0, INDEX["right_ankle"]], pose.head_confidence[0]) == (1, 1)
    cut = pose_of(Seen(body()), 150, 240)
    assert cut.confidence[0, INDEX["right_ankle"]] == 0  # below the picture's edge
    assert cut.confidence[0, INDEX["right_hip"]] == 1


@pytest.mark.parametrize("exchanged", [(4, 5, 9), (0, 1, 2)], ids=["within", "from the start"])
def test_exchanged_sides_are_put_right(exchanged: tuple[int, ...]) -> None:
    frames = [body(shift=2.0 * k, swapped=k in exchanged) for k in range(14)]
    poses = to_sequence(followed([*frames]), 240, 240, 12)
    straight = to_sequence(followed([body(shift=2.0 * k) for k in range(14)]), 240, 240, 12)
    assert poses.joints[:, INDEX["right_wrist"]] == pytest.approx(straight.joints[:, INDEX["right_wrist"]], abs=0.5)
    assert poses.joints[:, INDEX["left_knee"]] == pytest.approx(straight.joints[:, INDEX["left_knee"]], abs=0.5)


def test_hands_and_head_go_with_the_arms_that_are_put_right() -> None:
    def hand(x: float) -> Hand:
        return Hand(np.full((21, 3), x, np.float32), 1.0, 1.0, Region(x, x, 20))

    seen = [
        Seen(body(swapped=k in (4, 5)), hands=(hand(85), hand(155))[:: -1 if k in (4, 5) else 1]) for k in range(12)
    ]
    poses = to_sequence(Followed(tuple(seen), 0), 240, 240, 12)
    assert poses.hands[:, RIGHT] == pytest.approx(np.full((12, 21, 3), 85), abs=0.5)
    assert poses.hands[:, LEFT] == pytest.approx(np.full((12, 21, 3), 155), abs=0.5)
    assert poses.head_rotation == pytest.approx(np.repeat(poses.head_rotation[:1], 12, axis=0), abs=0.02)


def test_a_head_is_as_sure_as_its_surest_point() -> None:
    assert pose_of(Seen(body(hidden=(bodies.NOSE,))), 240, 240).head_confidence[0] == 1


def test_a_lost_person_is_interpolated_a_hidden_limb_only_briefly() -> None:
    wrist = (bodies.LEFT_WRIST,)
    seen: list[Body | None] = [body(shift=3.0 * k, hidden=wrist if k in (3, 4) or k > 20 else ()) for k in range(40)]
    seen[10:16] = [None] * 6
    poses = to_sequence(followed(seen), 240, 360, 12)
    neck, left = INDEX["neck"], INDEX["left_wrist"]
    assert poses.joints[:, neck, 0] == pytest.approx(120 + 3 * np.arange(40), abs=1.5)
    assert (poses.confidence[:, neck] > 0.3).all()
    assert (poses.confidence[:21, left] >= 0.3).all()
    assert (poses.confidence[21:, left] == 0).all()


def test_a_hidden_limb_is_filled_for_so_many_seconds_not_frames() -> None:
    seen: list[Body | None] = [body(hidden=(bodies.LEFT_WRIST,) if 5 <= k < 9 else ()) for k in range(20)]
    slow, fast = (
        to_sequence(followed(seen), 240, 240, fps).confidence[5:9, INDEX["left_wrist"]] >= 0.3 for fps in (6, 12)
    )
    assert fast.all()
    assert not slow.any()


def test_a_limb_that_does_not_come_back_is_not_drawn_while_the_person_is_lost() -> None:
    seen: list[Body | None] = [body(hidden=(bodies.LEFT_WRIST,) if k >= 16 else ()) for k in range(30)]
    seen[8:16] = [None] * 8
    left = to_sequence(followed(seen), 240, 240, 12).confidence[:, INDEX["left_wrist"]]
    assert (left[:8] >= 0.3).all()
    assert (left[8:] == 0).all()


def test_a_joint_never_seen_lies_by_the_body_where_the_body_is_lost() -> None:
    """Retargeting places the wrist, which is interpolated, from the elbow, which is not."""
    elbow = (bodies.LEFT_ELBOW,)
    seen: list[Body | None] = [body(shift=3.0 * k, hidden=elbow) for k in range(12)]
    seen[5:7] = [None] * 2
    poses = to_sequence(followed(seen), 240, 360, 12)
    forearm = poses.joints[:, INDEX["left_wrist"], :2] - poses.joints[:, INDEX["left_elbow"], :2]
    assert np.abs(forearm - forearm[0]).max() < 3  # the wrist is smoothed
    assert (poses.confidence[:, INDEX["left_elbow"]] < 0.3).all()


def test_clothes_tell_people_apart() -> None:
    def dressed(color: tuple[int, int, int], light: int) -> np.ndarray:
        picture = np.random.default_rng(light).integers(0, 30, (240, 240, 3))
        picture[55:115, 95:145] += np.array(color) + light
        return np.clip(picture, 0, 255).astype(np.uint8)

    seen = Seen(body())
    red, same, blue = (
        appearance(dressed(color, light), seen)
        for color, light in (((190, 20, 20), 0), ((190, 20, 20), 6), ((20, 30, 190), 0))
    )
    assert red.sum() == pytest.approx(1, abs=1e-4)
    assert same_look(red, same)
    assert not same_look(red, blue)
    nowhere = dataclasses.replace(seen.body, points=seen.body.points + 1000) if seen.body else None
    assert np.isfinite(appearance(dressed((1, 2, 3), 0), Seen(nowhere))).all()


def test_a_face_without_a_body_looks_as_its_skin_does() -> None:
    picture = np.zeros((240, 240, 3), np.uint8)
    cv2.circle(picture, (120, 80), 30, (220, 170, 140), -1)
    angles = np.linspace(0, 2 * np.pi, 468, dtype=np.float32)
    points = np.stack([120 + 20 * np.cos(angles), 80 + 20 * np.sin(angles), 0 * angles], -1)
    face = Face(points, 0.9, body().head, Region(120, 80, 60))
    look = appearance(picture, Seen(None, face))
    assert np.sort(look.ravel())[-2:] == pytest.approx([0, 1], abs=1e-4)  # of one colour
