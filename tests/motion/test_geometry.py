"""Regions, detections, heads and paths, against what is known by construction."""

import numpy as np
import pytest

from dreamactor.motion.head import CENTER, RADIUS, RIGID, TEMPLATE, head_of_face
from dreamactor.motion.roi import Region, angle_between, around, crop, to_picture
from dreamactor.motion.smooth import fill, rotations, smooth
from dreamactor.motion.ssd import anchors, decode


def blob(x: float, y: float, height: int = 200, width: int = 240, spread: float = 3) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    value = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * spread**2))
    return np.repeat(value[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("side", [24, 64])
@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
def test_what_a_crop_shows_maps_back_to_where_it_was(angle: float, side: int) -> None:
    region = Region(118, 90, 100, angle)
    cut = crop(blob(130, 75, spread=5), region, side)[..., 0].astype(float)
    rows, columns = np.mgrid[:side, :side]
    found = np.float32([(columns * cut).sum() / cut.sum() + 0.5, (rows * cut).sum() / cut.sum() + 0.5]) / side
    assert to_picture(found, region) == pytest.approx([130, 75], abs=1.2)


def test_regions_turn_and_enclose() -> None:
    assert angle_between(np.float32([0, 10]), np.float32([0, 0]), np.pi / 2) == pytest.approx(0)
    assert angle_between(np.float32([0, 0]), np.float32([10, 0]), np.pi / 2) == pytest.approx(np.pi / 2)
    points = to_picture(np.float32([[0.25, 0.25], [0.75, 0.5]]), Region(50, 60, 40, 0.7))
    box = around(points, 1.0, 0.7)
    assert box.size == pytest.approx(20, abs=1e-3)
    assert (box.x, box.y) == pytest.approx(tuple(points.mean(axis=0)), abs=1e-3)
    moved = Region(0, 0, 10, np.pi / 2).shifted(0, 1)
    assert (moved.x, moved.y) == pytest.approx((-10, 0), abs=1e-9)
    assert not Region(float("nan"), 0, 10).usable(100, 100)
    assert not Region(500, 50, 20).usable(100, 100)


def test_detections_are_decoded_and_merged() -> None:
    centers = anchors(32, (8, 16), (2, 6))
    assert centers.shape == (4 * 4 * 2 + 2 * 2 * 6, 2)
    assert centers[0] == pytest.approx([0.125, 0.125])
    rows, logits = np.zeros((len(centers), 6), np.float32), np.full(len(centers), -50, np.float32)
    rows[[0, 1], 2:4] = 8  # two finds at one place, one elsewhere
    rows[-1, 2:4], rows[-1, 4:] = 16, 4
    logits[[0, 1, -1]] = (2, 1, 3)
    found = decode(rows, logits, centers, 32, Region(50, 50, 100), 0.5)
    assert [round(one.score, 2) for one in found] == [0.95, 0.88]
    assert found[0].box == pytest.approx([50, 50, 100, 100])
    assert found[0].points[0] == pytest.approx([87.5, 87.5])
    assert found[1].box == pytest.approx([0, 0, 25, 25])


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    a, b, c = np.radians([yaw, pitch, roll])
    y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return z @ y @ x


@pytest.mark.parametrize("angles", [(0, 0, 0), (50, 0, 0), (-30, 20, 15), (80, -10, -40)])
def test_a_head_is_found_in_its_face(angles: tuple[float, float, float]) -> None:
    rotation = turned(*angles)
    mesh = np.random.default_rng(0).normal(0, 100, (468, 3)).astype(np.float32)  # the other points do not matter
    mesh[RIGID] = 7 * TEMPLATE @ rotation.T + (300, 200, 5)
    head = head_of_face(mesh)
    assert head.rotation == pytest.approx(rotation, abs=1e-4)
    assert head.radius == pytest.approx(7 * RADIUS, rel=1e-4)
    assert head.center == pytest.approx(7 * rotation @ CENTER + (300, 200, 5), abs=0.01)


def test_gaps_are_filled_linearly() -> None:
    values = np.float32([[0], [9], [9], [6], [9], [9], [9], [9], [16]])
    good = np.array([1, 0, 0, 1, 0, 0, 0, 0, 1], bool)
    filled, known = fill(values, good)
    assert filled[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert known.all()
    filled, known = fill(values, good, longest=2)
    assert known.tolist() == [True] * 4 + [False] * 4 + [True]
    held, known = fill(values, np.array([0, 0, 0, 1, 0, 0, 0, 0, 0], bool))
    assert held[:, 0].tolist() == [6] * 9
    _, known = fill(values, np.array([0, 0, 0, 1, 0, 0, 0, 0, 0], bool), hold=False)
    assert known.sum() == 1


def test_smoothing_takes_jitter_and_leaves_motion() -> None:
    generator = np.random.default_rng(0)
    time = np.arange(60) / 12
    still = generator.normal(0, 0.05, (60, 3)).astype(np.float32)
    good = np.ones(60, bool)
    calm = smooth(still, good, 12, 1.0)
    assert np.abs(np.diff(calm, axis=0)).mean() < 0.6 * np.abs(np.diff(still, axis=0)).mean()
    wave = np.float32(3 * np.sin(2 * np.pi * time))[:, None]
    error = smooth(wave, good, 12, 1.0) - wave
    assert np.abs(error).max() < 0.6
    assert abs(float((error * np.gradient(wave[:, 0])[:, None]).mean())) < 0.02  # neither late nor early
    good[20:40] = False
    assert np.array_equal(smooth(wave, good, 12, 1.0)[20:40], wave[20:40])


def test_jitter_is_what_is_fast_in_seconds_whatever_the_frame_rate() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (240, 3)).astype(np.float32)
    slow, fast = (np.abs(np.diff(smooth(noise, np.ones(240, bool), fps, 1.0), axis=0)).mean() for fps in (12, 48))
    assert fast < 0.6 * slow


def test_rotations_are_made_whole() -> None:
    rotation = turned(20, 30, 40)
    assert rotations(1.3 * rotation[None].astype(np.float32))[0] == pytest.approx(rotation, abs=1e-5)
    assert np.linalg.det(rotations(np.random.default_rng(0).normal(size=(20, 3, 3)))) == pytest.approx(np.ones(20))
