"""The real models on real pictures."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from dreamactor.errors import InputError
from dreamactor.motion import body as bodies
from dreamactor.motion.assets import media_file
from dreamactor.motion.hand import Hand
from dreamactor.motion.image import decode_image
from dreamactor.motion.landmarks import Landmarker
from dreamactor.motion.pose import INDEX, LEFT, RIGHT
from dreamactor.motion.roi import Region
from dreamactor.motion.sequence import pose_of
from dreamactor.motion.track import main_person
from tests.motion.test_sequence import body


@pytest.fixture(scope="module")
def landmarker() -> Landmarker:
    return Landmarker()


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return decode_image(media_file("astronaut.png").read_bytes())


def yaw_pitch_roll(rotation: np.ndarray) -> np.ndarray:
    """Degrees; yaw to the image's left, pitch up, roll clockwise are positive."""
    forward, right = -rotation[:, 2], rotation[:, 0]
    turns = (np.arctan2(-forward[0], -forward[2]), np.arcsin(-forward[1]), np.arctan2(right[1], right[0]))
    return np.degrees(turns)


def test_the_astronaut_is_seen_where_she_is(landmarker: Landmarker, astronaut: np.ndarray) -> None:
    seen, others = main_person(landmarker, astronaut, "photo")
    assert others == 0
    pose = pose_of(seen, *astronaut.shape[:2])
    assert pose.head_center[0] == pytest.approx([230, 100], abs=12)
    assert pose.head_radius[0] == pytest.approx(73, abs=8)
    assert np.abs(yaw_pitch_roll(pose.head_rotation[0])).max() < 20
    assert pose.joints[0, INDEX["right_shoulder"], :2] == pytest.approx([98, 248], abs=25)
    assert pose.joints[0, INDEX["left_shoulder"], :2] == pytest.approx([305, 255], abs=25)
    sure = dict(zip(INDEX, pose.confidence[0], strict=True))
    assert min(sure["neck"], sure["right_shoulder"], sure["right_elbow"]) > 0.8
    assert max(sure["right_knee"], sure["left_ankle"]) < 0.1
    eyes = seen.face.points[[33, 133, 362, 263], :2] if seen.face else None
    assert eyes is not None
    assert eyes.mean(axis=0) == pytest.approx([222, 107], abs=8)


@pytest.mark.parametrize("angle", [-35, 25])
def test_a_tilted_picture_tilts_the_head_and_the_body(
    landmarker: Landmarker, astronaut: np.ndarray, angle: float
) -> None:
    matrix = cv2.getRotationMatrix2D((256, 256), -angle, 1.0)
    picture = cv2.warpAffine(astronaut, matrix, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    straight = pose_of(main_person(landmarker, astronaut, "photo")[0], 512, 512)
    seen = main_person(landmarker, picture, "photo")[0]
    tilted = pose_of(seen, 512, 512)
    roll = yaw_pitch_roll(tilted.head_rotation[0])[2] - yaw_pitch_roll(straight.head_rotation[0])[2]
    assert roll == pytest.approx(angle, abs=6)
    assert tilted.head_center[0] == pytest.approx(matrix @ [*straight.head_center[0], 1], abs=12)
    assert seen.body is not None
    pixels, metres = (
        points[bodies.LEFT_SHOULDER, :2] - points[bodies.RIGHT_SHOULDER, :2]
        for points in (seen.body.points, seen.body.world)
    )
    apart = np.degrees(np.arctan2(pixels[1], pixels[0]) - np.arctan2(metres[1], metres[0]))
    assert apart == pytest.approx(0, abs=10)


def test_a_mirrored_picture_mirrors_the_person(landmarker: Landmarker, astronaut: np.ndarray) -> None:
    straight = pose_of(main_person(landmarker, astronaut, "photo")[0], 512, 512)
    mirrored = pose_of(main_person(landmarker, np.ascontiguousarray(astronaut[:, ::-1]), "photo")[0], 512, 512)
    for name, other in (("left_shoulder", "right_shoulder"), ("right_shoulder", "left_shoulder")):
        expected = straight.joints[0, INDEX[other], :2] * (-1, 1) + (511, 0)
        assert mirrored.joints[0, INDEX[name], :2] == pytest.approx(expected, abs=25)
    before, after = (yaw_pitch_roll(pose.head_rotation[0]) for pose in (straight, mirrored))
    assert after == pytest.approx(before * (-1, 1, -1), abs=5)


def test_a_face_alone_is_enough(landmarker: Landmarker, astronaut: np.ndarray) -> None:
    face = cv2.resize(astronaut[60:165, 170:275], (420, 420), interpolation=cv2.INTER_CUBIC)
    pose = pose_of(main_person(landmarker, face, "photo")[0], 420, 420)
    assert pose.head_confidence[0] > 0.8
    assert pose.head_center[0] == pytest.approx([(230 - 170) * 4, (100 - 60) * 4], abs=40)


def test_everybody_is_counted(landmarker: Landmarker) -> None:
    picture = decode_image(media_file("multi_face.jpg").read_bytes())
    assert len(landmarker.everybody(picture)) == 5
    assert main_person(landmarker, picture, "photo")[1] == 4


@pytest.mark.parametrize(("rightness", "side"), [(0.9, RIGHT), (0.1, LEFT)])
def test_one_hand_claimed_by_both_arms_goes_to_the_side_it_looks_like(
    landmarker: Landmarker, monkeypatch: pytest.MonkeyPatch, rightness: float, side: int
) -> None:
    hand = Hand(np.full((21, 3), 120, np.float32), 1.0, rightness, Region(120, 120, 40))
    monkeypatch.setattr(landmarker, "_find_hand", lambda *values: hand)
    pair = landmarker._observe_hands(np.zeros((240, 240, 3), np.uint8), body(), None, True)
    assert [one is hand for one in pair] == [side == RIGHT, side == LEFT]


def test_nobody_is_an_error(landmarker: Landmarker) -> None:
    coffee = decode_image(media_file("coffee.png").read_bytes())
    for picture in (coffee, np.full((240, 320, 3), 127, np.uint8)):
        with pytest.raises(InputError, match="No person found in photo 2"):
            main_person(landmarker, picture, "photo 2")


def test_opening_the_models_says_nothing() -> None:
    code = "import os, dreamactor.motion.landmarks as l; l.Landmarker(); os.write(2, b'heard')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (result.stdout, result.stderr) == (b"", b"heard")
