"""The command as a person types it: what it writes, what it refuses, and with which sentence and status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dreamactor.cli import main
from dreamactor.motion.media import Limits, decode_clip

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ROOT / ".assets" / "media"


def animate(tmp_path: Path, engines: Path, **changes: object) -> list[str]:
    options = {
        "reference": MEDIA / "astronaut.png", "driving": MEDIA / "single_face.mp4", "output": tmp_path / "out.mp4",
        "engines": engines, "max-frames": 13, "steps": 1, **changes,
    }  # fmt: skip
    return ["animate", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]


def test_animate_writes_the_clip_with_its_sound(tmp_path: Path, tiny_engines: Path) -> None:
    assert main(animate(tmp_path, tiny_engines)) == 0
    video = (tmp_path / "out.mp4").read_bytes()
    clip = decode_clip(video, 12, Limits())
    assert clip.frames.shape[0] == 13
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    import av

    with av.open(str(tmp_path / "out.mp4")) as container:
        (sound,) = container.streams.audio
        assert abs(float(sound.duration * sound.time_base) - 13 / 12) < 0.15


def test_same_seed_same_file(tmp_path: Path, tiny_engines: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        assert main(animate(tmp_path, tiny_engines, output=tmp_path / name, seed=5)) == 0
    assert main(animate(tmp_path, tiny_engines, output=tmp_path / "three.mp4", seed=6)) == 0
    one, two, three = ((tmp_path / f"{name}.mp4").read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert one != three


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"driving": "nowhere.mp4"}, "driving clip nowhere.mp4 cannot be read"),
        ({"reference": "nowhere.png"}, "reference nowhere.png cannot be read"),
        ({"driving": MEDIA / "astronaut.png"}, "driving"),
        ({"reference": MEDIA / "coffee.png"}, "reference"),
        ({"driving": ROOT / "README.md"}, "driving"),
        ({"reference": ROOT / "README.md"}, "reference"),
        ({"output": "/nowhere/out.mp4"}, "cannot be written"),
        ({"steps": 0}, "steps"),
        ({"guidance": 1000}, "guidance_scale"),
        ({"seed": -1}, "seed"),
        ({"server": "127.0.0.1:9", "max-clip-mb": 1}, "the caps on input are the server's"),
        ({"max-frames": 1}, "max_frames"),
        ({"max-clip-mb": 0.1}, "clip"),
        ({"max-image-megapixels": 0.1}, "pixels"),
        ({"max-image-mb": -1}, "above zero"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tmp_path: Path, tiny_engines: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], part: str
) -> None:
    assert main(animate(tmp_path, tiny_engines, **changes)) == 2
    assert part in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_engine_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(animate(tmp_path, tmp_path / "empty")) == 1
    assert "manifest" in capsys.readouterr().err


def test_doctor_names_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    found = capsys.readouterr().out
    for subject in ("python", "gpu", "torch", "onnxruntime", "landmark models", "server environment", "engine sets"):
        assert subject in found


def test_every_command_explains_itself() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "dreamactor.cli", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("doctor", "export", "build", "verify", "serve", "animate", "bench", "train", "eval", "engines"):
        assert command in listed.stdout
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
