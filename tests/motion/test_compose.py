"""From poses to the networks' inputs, on bodies made of numbers: each photo in its own frame, the scale, the yaw."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dreamactor.motion.draw import DrawnControls, draw_controls
from dreamactor.motion.letterbox import Frame
from dreamactor.motion.pose import INDEX, PoseSequence
from dreamactor.motion.prepare import MotionInputs, compose
from dreamactor.motion.retarget import Scale, only
from dreamactor.presets import preset
from tests.motion.test_draw import standing, yaw

SIZE = (96, 160)
TURNS = (-40, 0, 25)  # degrees


def composed(scale: Scale) -> MotionInputs:
    """Two photos of other shapes; the driving head turns, and nods as it does."""
    photos = [np.zeros((128, 128, 3), np.uint8), np.zeros((150, 400, 3), np.uint8)]
    views = [(photos[0], standing()), (photos[1], standing().transformed(1.1, (130, 5)))]
    nod = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    turned = np.stack([yaw(angle) @ nod for angle in TURNS]).astype(np.float32)
    motion = dataclasses.replace(standing(3), head_rotation=turned)
    sized = dataclasses.replace(preset("tiny"), height=SIZE[0], width=SIZE[1])
    return compose(views, motion, np.zeros((3, 224, 224, 3), np.uint8), sized, scale)


@pytest.mark.parametrize("scale", ["face", "half", "full"])
def test_every_photos_control_lies_on_the_photo_and_shows_what_is_driven(scale: Scale) -> None:
    found = composed(scale).reference_controls
    for photo, pose, control in (
        (np.zeros((128, 128, 3), np.uint8), standing(), found[0]),
        (np.zeros((150, 400, 3), np.uint8), standing().transformed(1.1, (130, 5)), found[1]),
    ):
        frame = Frame.of(photo, *SIZE)
        placed = only(pose.transformed(frame.scale, (frame.crop[1], frame.crop[0])), scale)
        np.testing.assert_array_equal(control, draw_controls(placed, *SIZE)[0])


def test_yaw_is_how_far_the_driving_head_is_turned() -> None:
    assert np.degrees(composed("half").yaw) == pytest.approx(TURNS, abs=0.1)


def test_a_walk_has_the_room_of_the_photo_and_not_of_what_is_around_it() -> None:
    steps = [standing().transformed(1.0, (float(x), 0.0)) for x in np.linspace(0, 900, 60)]
    sized = dataclasses.replace(preset("tiny"), height=160, width=96)
    photo, faces = np.zeros((128, 128, 3), np.uint8), np.zeros((60, 224, 224, 3), np.uint8)
    found = compose([(photo, standing())], PoseSequence.concatenate(steps), faces, sized, "full")
    assert isinstance(found.controls, DrawnControls)
    neck = found.controls.poses.joints[:, INDEX["neck"], 0]
    assert np.ptp(neck) == pytest.approx(0.4 * 96, rel=0.15)
