"""Motion of one body put on another, on bodies whose every bone is known."""

import dataclasses

import numpy as np
import pytest

from dreamactor.motion.pose import INDEX, LEFT, RIGHT, PoseSequence, nose_of
from dreamactor.motion.retarget import PARENTS, choose_scale, only, retarget
from tests.motion.test_draw import standing, yaw

SIZE = (128, 128)


def bone(poses: PoseSequence, name: str) -> np.ndarray:
    return poses.joints[:, INDEX[name]] - poses.joints[:, INDEX[PARENTS[name]]]


def waving(frames: int = 24) -> PoseSequence:
    """A standing person, twice as large and elsewhere, whose left forearm swings."""
    poses = standing(frames).transformed(2.0, (300, 40))
    joints = poses.joints.copy()
    angle = np.linspace(0, np.pi, frames)
    elbow = joints[:, INDEX["left_elbow"]]
    swing = np.stack([np.cos(angle), -np.sin(angle), 0 * angle], axis=1) * 28
    joints[:, INDEX["left_wrist"]] = elbow + swing
    return dataclasses.replace(poses, joints=joints.astype(np.float32))


def with_hands(poses: PoseSequence) -> PoseSequence:
    """The right hand points down from its wrist, the left one up."""
    hands = poses.hands.copy()
    for side, name, way in ((RIGHT, "right_wrist", 1), (LEFT, "left_wrist", -1)):
        hands[:, side] = poses.joints[:, INDEX[name], None]
        hands[:, side, :, 1] += way * np.linspace(0, 8, 21)
    return dataclasses.replace(poses, hands=hands, hand_confidence=np.ones_like(poses.hand_confidence))


def with_an_ankle_unseen(poses: PoseSequence) -> PoseSequence:
    """The left one, in the first five frames, where it is said to lie far below."""
    joints, confidence, ankle = poses.joints.copy(), poses.confidence.copy(), INDEX["left_ankle"]
    joints[:5, ankle, 1], confidence[:5, ankle] = 400, 0
    return dataclasses.replace(poses, joints=joints, confidence=confidence)


def test_the_same_pose_comes_out_as_itself() -> None:
    reference = standing()
    moved, notes = retarget(standing(10).transformed(3.0, (50, -20)), reference, "full", 12, SIZE)
    assert notes == ()
    assert moved.joints == pytest.approx(np.repeat(reference.joints, 10, axis=0), abs=0.1)
    assert moved.head_center == pytest.approx(np.repeat(reference.head_center, 10, axis=0), abs=0.1)
    assert moved.head_radius == pytest.approx(np.full(10, 13), abs=0.01)


def test_hands_are_the_drivers_at_their_own_wrists_in_the_references_size() -> None:
    reference = with_hands(standing())
    moved, _ = retarget(with_hands(standing(10)).transformed(3.0, (50, -20)), reference, "full", 12, SIZE)
    assert moved.hands == pytest.approx(np.repeat(reference.hands, 10, axis=0), abs=0.1)


def test_a_hand_whose_wrist_is_not_seen_is_placed_from_the_neck() -> None:
    reference, driving = with_hands(standing()), with_hands(standing(10)).transformed(3.0, (50, -20))
    joints, confidence = driving.joints.copy(), driving.confidence.copy()
    wrists = [INDEX["right_wrist"], INDEX["left_wrist"]]
    joints[6:, wrists], confidence[6:, wrists] = 0, 0
    moved, _ = retarget(dataclasses.replace(driving, joints=joints, confidence=confidence), reference, "full", 12, SIZE)
    assert moved.hands == pytest.approx(np.repeat(reference.hands, 10, axis=0), abs=0.1)


def test_an_arm_that_stays_keeps_the_photos_hand() -> None:
    driving, reference = standing(10), with_hands(standing())
    confidence = driving.confidence.copy()
    confidence[:, [INDEX[side + part] for side in ("left_", "right_") for part in ("elbow", "wrist")]] = 0.05
    moved, _ = retarget(dataclasses.replace(driving, confidence=confidence), reference, "full", 12, SIZE)
    assert moved.hands == pytest.approx(np.repeat(reference.hands, 10, axis=0), abs=0.1)
    assert (moved.hand_confidence == 1).all()


def test_a_hip_that_is_seen_now_and_then_is_drawn_throughout() -> None:
    driving = standing(12).transformed(2.0)
    joints, confidence = driving.joints.copy(), driving.confidence.copy()
    joints[4:9, INDEX["right_hip"]], confidence[4:9, INDEX["right_hip"]] = 0, 0
    moved, _ = retarget(
        dataclasses.replace(driving, joints=joints, confidence=confidence), standing(), "full", 12, SIZE
    )
    hip = np.repeat(standing().joints[:, INDEX["right_hip"]], 12, axis=0)
    assert moved.joints[:, INDEX["right_hip"]] == pytest.approx(hip, abs=0.5)
    assert (moved.confidence[:, INDEX["right_hip"]] > 0.3).all()


def test_motion_is_kept_and_bones_get_the_references_length() -> None:
    reference = standing()
    joints = reference.joints.copy()
    joints[:, INDEX["left_wrist"]] += 0.4 * bone(reference, "left_wrist")  # a longer forearm
    reference = dataclasses.replace(reference, joints=joints)
    driving = waving()
    moved, _ = retarget(driving, reference, "full", 12, SIZE)
    forearm, before = bone(moved, "left_wrist"), bone(driving, "left_wrist")
    cosine = (forearm * before).sum(1) / np.linalg.norm(forearm, axis=1) / np.linalg.norm(before, axis=1)
    assert cosine == pytest.approx(np.ones(24), abs=1e-4)
    both = [np.linalg.norm(bone(reference, name), axis=1)[0] for name in ("left_wrist", "right_wrist")]
    other = [np.linalg.norm(bone(driving, name), axis=1)[0] for name in ("left_wrist", "right_wrist")]
    ratio = np.mean([both[0] / other[0], both[1] / other[1]])  # one ratio for both sides
    assert np.linalg.norm(forearm, axis=1) == pytest.approx(ratio * other[0] * np.ones(24), rel=1e-3)
    assert bone(moved, "right_knee")[0] == pytest.approx(bone(reference, "right_knee")[0], abs=0.1)


def test_the_head_takes_size_from_the_reference_and_turns_with_the_driver() -> None:
    driving = waving()
    turns = np.stack([yaw(angle) for angle in np.linspace(-40, 40, len(driving))])
    driving = dataclasses.replace(driving, head_rotation=turns.astype(np.float32))
    moved, _ = retarget(driving, standing(), "half", 12, SIZE)
    assert np.array_equal(moved.head_rotation, turns.astype(np.float32))
    assert moved.head_radius == pytest.approx(np.full(24, 13), abs=0.01)
    nose = nose_of(moved.head_center, moved.head_radius, moved.head_rotation)
    assert moved.joints[:, INDEX["nose"], :2] == pytest.approx(nose[:, :2], abs=1e-3)


def test_coming_nearer_grows() -> None:
    steps = [standing().transformed(float(scale)) for scale in np.linspace(1.0, 1.4, 48)]
    moved, _ = retarget(PoseSequence.concatenate(steps), standing(), "half", 12, SIZE)
    assert moved.head_radius[-1] / moved.head_radius[0] == pytest.approx(1.4, abs=0.06)


def test_who_comes_very_near_does_not_fill_the_picture() -> None:
    steps = [standing().transformed(float(scale)) for scale in np.linspace(1.0, 5.0, 48)]
    moved, _ = retarget(PoseSequence.concatenate(steps), standing(), "half", 12, SIZE)
    assert 0.6 * 13 - 0.01 <= moved.head_radius.min() < moved.head_radius.max() <= 1.6 * 13 + 0.01


def test_a_photo_without_a_head_gets_the_drivers() -> None:
    nowhere, unseen = np.zeros((1, 2), np.float32), np.zeros(1, np.float32)
    reference = dataclasses.replace(standing(), head_center=nowhere, head_confidence=unseen)
    moved, _ = retarget(standing(10).transformed(2.0), reference, "half", 12, SIZE)
    assert moved.head_center == pytest.approx(np.repeat(standing().head_center, 10, axis=0), abs=0.1)


def test_limbs_the_driver_does_not_show_stay_as_in_the_photo() -> None:
    driving = standing(12).transformed(1.5, (10, 0))
    confidence = driving.confidence.copy()
    legs = [INDEX[side + part] for side in ("left_", "right_") for part in ("knee", "ankle", "toe")]
    confidence[:, legs] = 0.05
    moved, notes = retarget(dataclasses.replace(driving, confidence=confidence), standing(), "full", 12, SIZE)
    assert "kept as in the photo: right knee, right ankle" in notes[0]
    assert moved.joints[:, legs] == pytest.approx(np.repeat(standing().joints[:, legs], 12, axis=0), abs=0.1)
    assert (moved.confidence[:, legs] == 1).all()


def test_a_head_alone_drives_a_half_body() -> None:
    driving = standing(12).transformed(4.0)
    driving = dataclasses.replace(driving, confidence=np.zeros_like(driving.confidence))
    reference = standing()
    moved, notes = retarget(driving, reference, "half", 12, SIZE)
    assert "right shoulder" in notes[0]
    assert moved.head_center == pytest.approx(np.repeat(reference.head_center, 12, axis=0), abs=0.1)
    drawn = [INDEX[name] for name in ("neck", "right_wrist", "left_shoulder")]
    assert moved.joints[:, drawn] == pytest.approx(np.repeat(reference.joints[:, drawn], 12, axis=0), abs=0.1)


def test_no_limb_hangs_in_the_air() -> None:
    driving = standing(12)
    confidence = driving.confidence.copy()
    confidence[6:, INDEX["left_elbow"]] = 0.0
    moved, _ = retarget(dataclasses.replace(driving, confidence=confidence), standing(), "full", 12, SIZE)
    assert (moved.confidence[:6, INDEX["left_wrist"]] == 1).all()
    assert (moved.confidence[6:, INDEX["left_wrist"]] == 0).all()


def test_what_stays_as_in_the_photo_does_not_hang_in_the_air_either() -> None:
    driving = standing(12)
    confidence = driving.confidence.copy()
    confidence[:, [INDEX["left_ankle"], INDEX["left_toe"]]] = 0.05
    confidence[6:, INDEX["left_knee"]] = 0.0
    moved, _ = retarget(dataclasses.replace(driving, confidence=confidence), standing(), "full", 12, SIZE)
    assert (moved.confidence[:6, INDEX["left_ankle"]] == 1).all()
    assert (moved.confidence[6:, INDEX["left_ankle"]] == 0).all()


def test_far_walks_stay_in_the_picture() -> None:
    steps = [standing().transformed(1.0, (float(x), 0.0)) for x in np.linspace(0, 900, 60)]
    moved, notes = retarget(PoseSequence.concatenate(steps), standing(), "full", 12, SIZE)
    assert "the view follows them" in notes[-1]
    neck = moved.joints[:, INDEX["neck"], 0]
    assert neck.min() > 20
    assert neck.max() < 108
    assert np.corrcoef(neck, np.arange(60))[0, 1] > 0.9


@pytest.mark.parametrize(("picture", "share"), [((128, 512), 0.4 * 512), ((512, 128), 0.4 * 128)])
def test_a_walk_takes_the_room_that_the_picture_has_in_its_direction(picture: tuple[int, int], share: float) -> None:
    steps = [standing().transformed(1.0, (float(x), 0.0)) for x in np.linspace(0, 900, 60)]
    moved, _ = retarget(PoseSequence.concatenate(steps), standing(), "full", 12, picture)
    assert np.ptp(moved.joints[:, INDEX["neck"], 0]) == pytest.approx(share, rel=0.15)


def test_the_foot_that_stands_is_the_ground_and_a_jump_leaves_it() -> None:
    driving = standing(12)
    joints = driving.joints.copy()
    joints[:, [INDEX["left_ankle"], INDEX["left_toe"]], 1] -= 20  # on one leg
    joints[:6, :, 1] -= 8  # in the air for half of the clip
    center = driving.head_center - np.where(np.arange(12) < 6, 8, 0)[:, None] * np.float32([0, 1])
    driving = dataclasses.replace(driving, joints=joints, head_center=center.astype(np.float32))
    moved, _ = retarget(driving, standing(), "full", 12, SIZE)
    ankle = moved.joints[:, INDEX["right_ankle"], 1]
    assert ankle[6:] == pytest.approx(np.full(6, 116), abs=1.5)
    assert ankle[:6] == pytest.approx(np.full(6, 108), abs=1.5)


@pytest.mark.parametrize(
    ("driving", "reference"),
    [(with_an_ankle_unseen(standing(12)), standing()), (standing(12), with_an_ankle_unseen(standing()))],
    ids=["driver", "photo"],
)
def test_an_ankle_that_is_not_seen_is_no_ground(driving: PoseSequence, reference: PoseSequence) -> None:
    moved, _ = retarget(driving, reference, "full", 12, SIZE)
    assert moved.joints[:, INDEX["right_ankle"], 1] == pytest.approx(np.full(12, 116), abs=1)


def test_feet_stand_on_the_photos_ground() -> None:
    squat = standing(12).transformed(2.0)
    joints = squat.joints.copy()
    above = [INDEX[name] for name in INDEX if name.split("_")[-1] not in ("ankle", "toe")]
    joints[2:, above, 1] += 20  # most of the clip is spent in a squat: neck lower, feet where they were
    moved, _ = retarget(dataclasses.replace(squat, joints=joints), standing(), "full", 12, SIZE)
    assert moved.joints[2:, INDEX["left_ankle"], 1] == pytest.approx(np.full(10, 116), abs=1)
    assert moved.joints[2, INDEX["neck"], 1] > 50


def test_scales() -> None:
    whole = standing()
    assert choose_scale(whole) == "full"
    sure = whole.confidence.copy()
    sure[:, [INDEX[side + part] for side in ("left_", "right_") for part in ("knee", "ankle", "toe")]] = 0
    half = dataclasses.replace(whole, confidence=sure)
    assert choose_scale(half) == "half"
    sure = sure.copy()
    sure[:, [INDEX[side + part] for side in ("left_", "right_") for part in ("elbow", "wrist", "hip")]] = 0
    assert choose_scale(dataclasses.replace(whole, confidence=sure)) == "face"
    drawn = only(whole, "face")
    assert {name for name, index in INDEX.items() if drawn.confidence[0, index]} == {
        "neck", "nose", "left_shoulder", "right_shoulder",
    }  # fmt: skip


def test_a_face_has_no_hands() -> None:
    whole = with_hands(standing())
    assert not only(whole, "face").hand_confidence.any()
    assert only(whole, "half").hand_confidence.all()
