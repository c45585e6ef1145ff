"""Peak memory: what the GPU tells, a probe that fails, and lengths that are left out."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dreamactor.benchmark import memory, scaling
from dreamactor.benchmark.environment import gpu
from dreamactor.benchmark.memory import Peak, Watch, device_used, probe
from dreamactor.benchmark.scaling import clip_scaling
from dreamactor.errors import DreamActorError
from dreamactor.motion.limits import Limits
from dreamactor.presets import preset

TINY = preset("tiny")


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that says what stands in this file, and writes down what it was asked beside it."""
    tool, answer = tmp_path / "nvidia-smi", tmp_path / "answer"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {answer}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return answer


def test_the_gpu_in_use_is_asked_for_its_memory(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers.write_text("1234 MiB\n")
    assert device_used() == 1234 << 20
    assert "--id=0 --query-gpu=memory.used" in (answers.parent / "asked").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5e1f,1")
    assert device_used() == 1234 << 20
    assert "--id=GPU-5e1f " in (answers.parent / "asked").read_text()
    answers.write_text("[N/A]\n")
    assert device_used() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (device_used(), gpu()) == (None, None)


def test_a_clips_own_memory_on_the_gpu_is_the_most_less_what_was_in_use_before() -> None:
    levels, seen = iter([500, 700, 900]), threading.Event()

    def used() -> int:
        level = next(levels, 600)  # it has fallen again
        if level == 600:
            seen.set()
        return level

    device = Watch(used)
    assert seen.wait(60)
    device.stop()
    assert (device.first, device.most) == (500, 900)
    found = Peak(25, 10, 30, 1.0, device.first, device.most).to_dict()
    assert (found["device_idle"], found["device_peak"], found["device_grown"]) == (500, 900, 400)


def test_without_a_gpu_that_tells_there_is_no_figure() -> None:
    device = Watch(lambda: None)
    device.stop()
    found = Peak(25, 10, 30, 1.0, device.first, device.most).to_dict()
    assert (found["device_idle"], found["device_peak"], found["device_grown"]) == (None, None, None)


def test_a_probe_that_fails_says_how(tiny_engines: Path, tmp_path: Path) -> None:
    with pytest.raises(DreamActorError, match=r"of 9 frames.*ended with status 1: .*EngineError"):
        probe(tmp_path, 9, 1)
    with pytest.raises(DreamActorError, match=r"of 9 frames.*was not done after 0.01 seconds"):
        probe(tiny_engines, 9, 1, timeout=0.01)


def test_lengths_that_fail_leave_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def probed(engines: Path, frames: int, steps: int) -> Peak:
        if frames > 150:
            raise DreamActorError("killed")
        working = 480_000_000  # of a segment; more than a short clip's frames
        return Peak(frames, 400_000_000, max(working, 420_000_000 + 1_000_000 * frames), 0.1 * frames)

    monkeypatch.setattr(memory, "probe", probed)
    clips, failed = clip_scaling(Path(), TINY, quick=False)
    assert [peak.frames for peak in clips.peaks] == [9, 17, 33, 97, 121, 145]
    assert failed == {f"memory of a clip of {frames} frames": "killed" for frames in (177, 225)}
    assert clips.memory().exponent.value == pytest.approx(1, abs=0.01)
    monkeypatch.setattr(scaling, "available_memory", lambda: 1_565_000_000)
    assert clips.longest(fps=12.0) == {
        "bytes_per_frame": 1e6, "frames_by_memory": 145 + 1000,
        "frames_by_cap": min(Limits().clip_frames, 12 * Limits().clip_seconds),
    }  # fmt: skip
    with pytest.raises(DreamActorError, match="killed"):
        clip_scaling(Path(), TINY, quick=True)  # of its three long lengths two are left
