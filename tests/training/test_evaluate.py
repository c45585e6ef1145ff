"""Evaluation: each measure says what it should of frames whose answer is known; the report is complete."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dreamactor.errors import InputError
from dreamactor.fidelity import ssim
from dreamactor.networks import build, save
from dreamactor.presets import preset
from dreamactor.training import measures
from dreamactor.training.characters.scene import Scene, Scenes, pose_sequence, render
from dreamactor.training.evaluate import Settings, evaluate, standard_error
from dreamactor.training.goals import goals

REQUIRED = (
    "psnr", "psnr_copy_reference", "psnr_vae", "ssim", "joint_error", "mouth_correlation", "flicker", "drift_db",
    "psnr_no_pose", "psnr_no_face", "psnr_no_reference",
)  # fmt: skip


@pytest.fixture(scope="module")
def talking(scenes: Scenes) -> Scene:
    """A face turned to the camera, its mouth opening and closing."""
    scene = scenes.scene(11, 12, "face")
    performance = scene.performance
    expression = replace(performance.expression, mouth_open=0.5 - 0.5 * np.cos(np.arange(12)))
    return replace(scene, performance=replace(performance, expression=expression, head=np.tile(np.eye(3), (12, 1, 1))))


def test_a_perfect_copy_is_perfect(talking: Scene) -> None:
    frames, poses = render(talking), pose_sequence(talking)
    assert measures.joint_error(frames, frames, poses) == 0
    assert measures.identity_error(frames, frames, poses) == 0
    assert measures.flicker(frames, frames) == 0


@pytest.mark.parametrize("pixels", [3, 8])
def test_joint_error_is_the_distance_moved(scenes: Scenes, pixels: int) -> None:
    scene = scenes.scene(15, 5, "half")
    frames, poses = render(scene), pose_sequence(scene)
    moved = np.roll(frames, pixels, axis=2)
    assert measures.joint_error(moved, frames, poses) == pytest.approx(pixels / 128, rel=0.35)
    empty = np.repeat(cv2.resize(scene.backdrop, (128, 128))[None], 5, axis=0)
    assert measures.joint_error(empty, frames, poses) > 0.5 * measures.REACH


def test_mouth_opening_follows_the_true_mouth_and_not_a_still_one(talking: Scene) -> None:
    truth = talking.performance.expression.mouth_open
    ruler, frames = measures.mouth_ruler(talking, 12), render(talking)
    assert measures.correlation(measures.mouth_opening(frames, ruler), truth) > 0.9
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames])
    assert measures.correlation(measures.mouth_opening(blurred, ruler), truth) > 0.8
    still = measures.mouth_opening(np.repeat(frames[:1], 12, axis=0), ruler)
    assert abs(measures.correlation(still, truth)) < 0.5 or np.isnan(measures.correlation(still, truth))


def test_blur_and_flicker_are_seen(talking: Scene) -> None:
    frames = render(talking)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in frames])
    assert ssim(blurred[0], frames[0]) < 0.95
    flashing = frames.astype(int) + np.where(np.arange(12) % 2, 20, 0)[:, None, None, None]
    assert measures.flicker(np.clip(flashing, 0, 255).astype(np.uint8), frames) > 10


def test_standard_error_is_of_the_mean() -> None:
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert np.isnan(standard_error([1.0]))


def test_the_report_has_every_figure_also_by_framing(tmp_path: Path) -> None:
    save(build(preset("tiny"), 0), tmp_path / "checkpoint")
    report = evaluate(tmp_path / "checkpoint", tmp_path / "eval", Settings(clips=1, drift_clips=1, steps=2))
    settings = json.loads((tmp_path / "eval" / "report.json").read_text())["settings"]
    assert settings["steps"] == 2
    assert Path(settings["checkpoint"]).is_dir()
    assert len(settings["weights_sha256"]) == 64
    for table in (report, *(report["by_framing"][framing] for framing in ("face", "half", "full"))):
        assert set(REQUIRED) <= set(table)
        assert all(np.isfinite(table[name]) for name in ("psnr", "psnr_vae", "ssim", "joint_error", "drift_db"))
    psnr, error = report["psnr"], report["standard_error"]["psnr"]
    assert f"| PSNR, dB | {psnr:.2f} ± {error:.2f} |" in (tmp_path / "eval" / "report.md").read_text()
    sheet = cv2.imread(str(tmp_path / "eval" / "contact_sheet.png"))
    assert sheet is not None
    assert sheet.std() > 5


def test_no_checkpoint_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        evaluate(tmp_path, tmp_path / "eval")


def test_a_folder_that_cannot_be_written_is_told_of_before_the_work(tmp_path: Path) -> None:
    save(build(preset("tiny"), 0), tmp_path / "checkpoint")
    (tmp_path / "file").touch()
    said: list[str] = []
    with pytest.raises(InputError, match=r"The folder .*file cannot be made: File exists"):
        evaluate(tmp_path / "checkpoint", tmp_path / "file", Settings(clips=1), say=said.append)
    assert said == []


def test_goals_are_met_or_missed_by_the_figures() -> None:
    good = {
        "psnr": 24.0, "psnr_copy_reference": 17.5, "psnr_vae": 27.0, "joint_error": 0.03, "joint_error_no_pose": 0.09,
        "mouth_correlation": 0.85, "mouth_correlation_no_face": 0.3, "identity_error": 8.0,
        "identity_error_no_reference": 30.0, "drift_db": 0.4,
    }  # fmt: skip
    assert "missed" not in goals(good)
    for name, bad in (("psnr", 22.0), ("joint_error", 0.05), ("mouth_correlation", 0.5), ("drift_db", None)):
        assert "missed" in goals({**good, name: bad})
