"""Driving faces as batches have them, beside the same with OpenCV, one by one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dreamactor.presets import FACE_SIZE
from dreamactor.training.characters.clip import STORED_FACE, enlarge_faces
from dreamactor.training.faces import SHARP, Look, draw_look, plain_look, see
from tests.training.helpers import train_clips


@pytest.fixture
def crops(clips: Path) -> np.ndarray:
    return np.array(train_clips(clips).store.faces[:3, :2])


def in_levels(faces: torch.Tensor) -> np.ndarray:
    """[B,T,224,224,3] of 255."""
    return faces.add(1).mul(127.5).permute(0, 1, 3, 4, 2).numpy()


def by_opencv(faces: np.ndarray, look: Look, clip: int) -> np.ndarray:
    """One clip's faces [T,224,224,3] under its look."""
    (x, y), side = look.corner[clip].astype(int), int(look.side[clip])
    made = []
    for face in faces[:, y : y + side, x : x + side] / np.float32(255):
        curved = np.clip(face ** look.gamma[clip] * look.gain[clip] + look.bias[clip] / 255, 0, 1).astype(np.float32)
        if look.gray[clip]:
            curved = cv2.cvtColor(cv2.cvtColor(curved, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if look.blur[clip] > SHARP:
            curved = cv2.GaussianBlur(curved, (0, 0), float(look.blur[clip]))
        made.append(255 * cv2.resize(curved, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_LINEAR))
    return np.stack(made)


def test_plain_faces_are_those_of_the_pipeline(crops: np.ndarray) -> None:
    seen = in_levels(see(torch.from_numpy(crops), plain_look(len(crops))))
    for clip, faces in enumerate(crops):
        assert np.abs(seen[clip] - enlarge_faces(faces)).max() <= 1.01


@pytest.mark.parametrize("seed", range(6))
def test_disturbed_faces_are_those_of_opencv(crops: np.ndarray, seed: int) -> None:
    look = draw_look(np.random.default_rng(seed), len(crops))
    seen = in_levels(see(torch.from_numpy(crops), look))
    inner = slice(8, -8)  # at the window's edge a blur is another
    for clip, faces in enumerate(crops):
        difference = np.abs(seen[clip] - by_opencv(faces, look, clip))[:, inner, inner]
        assert difference.max() < 6
        assert difference.mean() < 0.5


def test_looks_lie_within_the_stored_crop_and_differ_as_often_as_was_asked_for() -> None:
    look, plain = draw_look(np.random.default_rng(0), 4000, 0.6), plain_look(4000)
    assert look.corner.min() >= 0
    assert (look.corner + look.side[:, None]).max() <= STORED_FACE
    disturbed = (look.gamma != plain.gamma).mean()
    assert disturbed == pytest.approx(0.6, abs=0.03)
    assert look.gray.mean() == pytest.approx(0.15 * 0.6, abs=0.02)
    assert (look.blur > SHARP).mean() == pytest.approx(0.3 * 0.6, abs=0.03)
    assert draw_look(np.random.default_rng(0), 9, 0.0)[2:4].side.tolist() == plain[2:4].side.tolist()
