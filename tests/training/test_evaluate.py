"""Evaluation: each measure says what it should of frames whose answer is known; the report is complete."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dreamactor.errors import InputError
from dreamactor.fidelity import ssim
from dreamactor.networks import Networks, build, save
from dreamactor.pipeline.segments import plan
from dreamactor.presets import preset, video_frames
from dreamactor.training import evaluate as evaluating
from dreamactor.training import measures
from dreamactor.training.assets import mocap_folder
from dreamactor.training.characters.scene import Scene, Scenes, mouth_places, pose_sequence, render
from dreamactor.training.evaluate import Case, Evaluation, Settings, evaluate, standard_error
from dreamactor.training.goals import goals
from dreamactor.training.sampling import sample

TINY = preset("tiny")
Sampled = tuple[dict[str, torch.Tensor], int, float, torch.Tensor | None, torch.Tensor]  # the last: the latent
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
    for empty in (np.broadcast_to(cv2.resize(scene.backdrop, (128, 128)), frames.shape), np.full_like(frames, 127)):
        assert measures.joint_error(empty, frames, poses) > 0.5 * measures.REACH


@pytest.mark.parametrize(("height", "width"), [(96, 224), (224, 96)])
def test_joints_are_judged_wherever_they_are_in_a_picture(height: int, width: int) -> None:
    """What lies beyond the picture's shorter side is grey."""
    scene = Scenes("train", mocap_folder(), height, width, 12).scene(3, 5, "full")
    frames, poses = render(scene), pose_sequence(scene)
    made = np.full_like(frames, 127)
    made[:, :96, :96] = frames[:, :96, :96]
    assert (poses.joints[:, 2:, 0 if width > height else 1] > 96).any()
    assert measures.joint_error(made, frames, poses) > 0.005


def test_other_colours_of_head_and_chest_are_an_identity_error(scenes: Scenes) -> None:
    scene = scenes.scene(15, 5, "half")
    frames, poses = render(scene) // 2 + 64, pose_sequence(scene)
    other = (frames + np.array([30, 0, -30])).astype(np.uint8)
    assert measures.identity_error(other, frames, poses) == pytest.approx(20, abs=0.1)
    below = np.arange(128) > poses.joints[:, 0, 1].max()  # the necks
    dressed = np.where(below[:, None, None], other, frames)
    assert measures.identity_error(dressed, frames, poses) > 5


def test_mouth_opening_follows_the_true_mouth_and_not_a_still_one(talking: Scene) -> None:
    truth = talking.performance.expression.mouth_open
    ruler, frames = measures.mouth_ruler(talking, 12), render(talking)
    assert measures.correlation(measures.mouth_opening(frames, ruler), truth) > 0.9
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames])
    assert measures.correlation(measures.mouth_opening(blurred, ruler), truth) > 0.8
    still = measures.mouth_opening(np.repeat(frames[:1], 12, axis=0), ruler)
    assert abs(measures.correlation(still, truth)) < 0.5 or np.isnan(measures.correlation(still, truth))


def test_what_hides_a_mouth_leaves_it_unjudged(talking: Scene) -> None:
    def judged(**changes: Any) -> set[bool]:
        scene = replace(talking, performance=replace(talking.performance, **changes))
        return {box is not None for box in measures.mouth_ruler(scene, 12).boxes}

    assert judged() == {True}
    profile = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], float)
    assert judged(head=np.tile(profile, (12, 1, 1))) == {False}
    view, hands = talking.view, talking.performance.hands.copy()
    hands[..., :2] = ((mouth_places(talking)[:, :2] - view.offset) / view.scale)[:, None, None]
    assert judged(hands=hands) == {False}
    x, y = view.offset
    far = replace(talking, view=replace(view, scale=view.scale / 4, offset=(x / 4 + 48, y / 4 + 48)))
    assert not any(measures.mouth_ruler(far, 12).boxes)


@pytest.mark.parametrize(("height", "width"), [(128, 224), (224, 128)])
def test_mouths_are_judged_wherever_they_are_in_a_picture(height: int, width: int) -> None:
    scene = Scenes("test", mocap_folder(), height, width, 12).scene(0, 12, "face")
    (x, y) = scene.view.offset
    moved = replace(scene.view, offset=(x + 60, y) if width > height else (x, y + 60))
    there, here = (measures.mouth_ruler(replace(scene, view=view), 12).boxes for view in (moved, scene.view))
    assert [box is None for box in there] == [box is None for box in here]
    assert any(there)


def test_a_correlation_of_few_frames_is_none() -> None:
    assert np.isnan(measures.correlation(np.arange(7.0), np.arange(7.0)))
    assert measures.correlation(np.arange(8.0), np.arange(8.0)) == pytest.approx(1)


def test_blur_and_flicker_are_seen(talking: Scene) -> None:
    frames = render(talking)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in frames])
    assert ssim(blurred[0], frames[0]) < 0.95
    flashing = frames.astype(int) + np.where(np.arange(12) % 2, 20, 0)[:, None, None, None]
    assert measures.flicker(np.clip(flashing, 0, 255).astype(np.uint8), frames) > 10


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return Evaluation(build(TINY, 0), mocap_folder(), Settings(steps=1, guidance=1.7))


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[Sampled]:
    """What the sampler is asked for in this test, and what it makes."""
    made: list[Sampled] = []

    def watched(
        networks: Networks, window: dict[str, torch.Tensor], shape: tuple[int, ...], steps: int, guidance: float,
        generator: torch.Generator, carried: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        latent = sample(networks, window, shape, steps, guidance, generator, carried)
        made.append((window, steps, guidance, carried, latent))
        return latent

    monkeypatch.setattr(evaluating, "sample", watched)
    return made


@pytest.mark.parametrize(
    ("without", "gone"),
    [
        ("", set()),
        ("pose", {"pose_latent"}),
        ("face", {"motion"}),
        ("reference", {"reference_latent", "reference_pose"}),
    ],
)
def test_ablations_leave_out_what_they_say(
    evaluation: Evaluation, sampled: list[Sampled], without: str, gone: set[str]
) -> None:
    evaluation.generate(evaluation.case(1, "half", TINY.segment_frames), TINY.latent_frames, without)
    ((window, *_),) = sampled
    assert {name for name, value in window.items() if not value.any()} == gone


def test_segments_are_made_as_the_pipeline_makes_them(evaluation: Evaluation, sampled: list[Sampled]) -> None:
    latents = 2 * TINY.latent_frames - 1
    case = evaluation.case(1, "half", video_frames(latents))
    evaluation.generate(case, latents)
    (first, steps, guidance, nothing, made), (second, _, _, carried, _) = sampled
    assert (steps, guidance, nothing) == (1, 1.7, None)
    assert carried is not None
    assert torch.equal(carried, made[:, :, -1:])
    faces = plan(video_frames(latents), TINY.latent_frames)[1].face_frames
    assert torch.equal(second["motion"], case.conditions["motion"][:, faces])
    assert not torch.equal(second["motion"], first["motion"])


def test_drift_is_what_the_last_segment_loses(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video that is right to the end of the third segment, and grey from there."""

    def right_at_first(case: Case, latents: int) -> np.ndarray:
        made = case.clip.frames.copy()
        made[-(TINY.segment_frames - 1) :] = 127
        return made

    monkeypatch.setattr(evaluation, "generate", right_at_first)
    monkeypatch.setattr(evaluation, "frames", lambda made: made)
    assert evaluation.drift(1, "half") > 60


def test_the_clips_are_of_the_test_split(evaluation: Evaluation) -> None:
    assert evaluation.scenes.split == "test"


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
    for name, bad in (
        ("psnr", 22.0), ("psnr_copy_reference", 19.0), ("psnr_vae", 29.0), ("joint_error", 0.05),
        ("joint_error_no_pose", 0.04), ("mouth_correlation", 0.5), ("mouth_correlation_no_face", 0.6),
        ("identity_error_no_reference", 11.0), ("drift_db", None),
    ):  # fmt: skip
        assert "missed" in goals({**good, name: bad}), name
