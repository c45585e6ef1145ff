"""The command as a person types it: what it writes, what it refuses, and with which sentence and status."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreamactor.cli import main
from dreamactor.commands.common import engines_of
from dreamactor.engines.gpu import Gpu
from dreamactor.errors import EngineError
from dreamactor.motion.clip import decode_clip
from dreamactor.motion.limits import Limits
from dreamactor.presets import preset

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ROOT / ".assets" / "media"


def animate(tmp_path: Path, engines: Path, **changes: object) -> list[str]:
    options = {
        "reference": MEDIA / "astronaut.png", "driving": MEDIA / "single_face.mp4", "output": tmp_path / "out.mp4",
        "engines": engines, "max-frames": 13, "steps": 1, **changes,
    }  # fmt: skip
    return ["animate", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]


def without_engines(command: list[str]) -> list[str]:
    at = command.index("--engines")
    return [*command[:at], *command[at + 2 :]]


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
        ({"output": "out.gif"}, "out.gif will be MP4 whatever its name: call it out.mp4"),
        ({"steps": 0}, "steps"),
        ({"guidance": 1000}, "guidance_scale"),
        ({"seed": -1}, "seed"),
        ({"server": "127.0.0.1:9", "max-clip-mb": 1}, "the caps on input are the server's"),
        ({"server": "127.0.0.1:9"}, "the engines are the server's"),
        ({"preset": "tiny"}, "--engines names a set that has its own preset and precision"),
        ({"precision": "fp32"}, "--engines names a set that has its own preset and precision"),
        ({"max-frames": 1}, "max_frames"),
        ({"max-clip-mb": 0.1}, "the limit is 0.1 MB"),
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


def test_a_server_of_no_name_is_none_of_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As from a variable that was not set."""
    assert main(without_engines(animate(tmp_path, tmp_path, server=""))) == 2
    assert "HOST:PORT, not ''" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--preset", "tiny"], ["--precision", "fp32"]])
def test_a_server_has_its_own_preset_and_precision(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*without_engines(animate(tmp_path, tmp_path, server="127.0.0.1:9")), *option]) == 2
    assert "the engines are the server's" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["reference", "driving"])
def test_an_input_is_not_overwritten(
    name: str, tmp_path: Path, tiny_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"the only copy")
    (tmp_path / "link").symlink_to(mine)
    assert main(animate(tmp_path, tiny_engines, **{name: mine, "output": tmp_path / "link"})) == 2
    assert "give another file name" in capsys.readouterr().err
    assert mine.read_bytes() == b"the only copy"


def test_a_folder_that_is_no_engine_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(animate(tmp_path, tmp_path / "empty")) == 1
    assert "manifest" in capsys.readouterr().err


def test_doctor_names_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    found = capsys.readouterr().out
    for subject in ("python", "gpu", "torch", "onnxruntime", "landmark models", "server environment", "engine sets"):
        assert subject in found


def test_a_disk_that_cannot_be_written_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dreamactor.commands import doctor

    def full(options: object) -> int:
        Path("/dev/full").write_bytes(b"x" * 100)
        return 0

    monkeypatch.setattr(doctor, "run", full)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "dreamactor: No space left on device: no file named\n"


@pytest.mark.parametrize("command", ["build", "export", "eval", "train"])
def test_a_package_that_is_not_installed_is_a_sentence(command: str, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from dreamactor.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [command, "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "This needs torch, which is not installed; `dreamactor doctor`" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_folder_of_code_is_packaged() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    found = {
        ".".join((package, *path.relative_to(ROOT / folder).parent.parts))
        for package, folder in setuptools["package-dir"].items()
        for path in (ROOT / folder).rglob("*.py")
    }
    data = {package for package in setuptools["packages"] if package in setuptools["package-data"]}
    assert found == set(setuptools["packages"]) - data


def test_every_command_explains_itself() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "dreamactor.cli", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("doctor", "export", "build", "verify", "serve", "animate", "bench", "train", "eval", "engines"):
        assert command in listed.stdout
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0


def test_the_command_prunes_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dreamactor.engines.store import Store

    def make(folder: Path) -> dict[str, object]:
        (folder / "file").write_bytes(bytes(2_000_000))
        return {}

    Store(tmp_path).get("engine", {"a": 1}, make)
    assert main(["engines", "prune", "--store", str(tmp_path), "--older-than", "0"]) == 0
    assert "removed 1 entries, 2.0 MB" in capsys.readouterr().out
    assert not list(Store(tmp_path).entries())
    for wrong in (["--keep", "-1"], ["--older-than", "-1"], ["--older-than", "nan"]):
        assert main(["engines", "prune", "--store", str(tmp_path), *wrong]) == 2
        assert "must be 0 or more" in capsys.readouterr().err


def test_the_command_lists_sets_and_what_the_store_keeps(
    tmp_path: Path, tiny_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dreamactor.engines.store import Store

    def make(folder: Path) -> dict[str, object]:
        (folder / "file").write_bytes(bytes(3_000_000))
        return {}

    shutil.copytree(tiny_engines, tmp_path / "mine")
    Store(tmp_path / "store").get("engine", {"a": 1}, make)
    (tmp_path / "store/onnx/.partial-abc-1").mkdir(parents=True)
    (tmp_path / "store/onnx/.partial-abc-1/half.onnx").write_bytes(bytes(2_000_000))
    (tmp_path / "store/onnx/.abc.lock").touch()
    assert main(["engines", "list", "--store", str(tmp_path / "store")]) == 0
    found = [line.split() for line in capsys.readouterr().out.splitlines()]
    size = sum(path.stat().st_size for path in tiny_engines.iterdir())
    assert found == [
        ["set", "mine", f"{size / 1e6:.1f}", "MB"],
        ["store", "engine,", "1", "entries", "3.0", "MB", "last", "used", "0.0", "to", "0.0", "days", "ago"],
        ["store", "left", "by", "killed", "builds", "2.0", "MB", "'dreamactor", "engines", "prune'", "removes", "it"],
        ["store", "in", "all", "3.0", "MB"],
    ]


def test_a_set_that_the_command_signed_is_taken_with_its_key_alone(
    tmp_path: Path, tiny_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from dreamactor.engines import read_manifest

    private, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    engines, key = Path(shutil.copytree(tiny_engines, tmp_path / "set")), tmp_path / "key"
    key.write_bytes(private.private_bytes_raw())
    assert main(["engines", "sign", str(engines), "--private-key", str(key)]) == 0
    assert Path(capsys.readouterr().out.strip()).parent == engines
    assert read_manifest(engines, private.public_key().public_bytes_raw()) == read_manifest(engines)
    with pytest.raises(EngineError, match="does not match the public key"):
        read_manifest(engines, other.public_key().public_bytes_raw())
    assert main(["engines", "sign", str(tmp_path), "--private-key", str(key)]) == 1
    assert main(["engines", "sign", str(engines), "--private-key", str(tmp_path / "nowhere")]) == 2
    assert "private key" in capsys.readouterr().err


def build(output: Path, *arguments: str) -> list[str]:
    return ["build", "--preset", "tiny", "--output", str(output), *arguments]


def test_a_set_that_missed_a_gate_is_no_success(
    tmp_path: Path, tiny_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = Path(shutil.copytree(tiny_engines, tmp_path / "set"))
    assert main(build(engines)) == 0
    report = engines / "report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "passed": False}))
    for arguments in ([], ["--print-path"]):
        capsys.readouterr()
        assert main(build(engines, *arguments)) == 1
        found = capsys.readouterr()
        assert "did not pass" in found.err
    assert found.out == ""  # no path for `make serve` to go on with


def test_a_path_is_printed_without_what_a_library_says(
    tmp_path: Path, tiny_engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As onnxruntime's `preload_dlls` does on a GPU."""
    from dreamactor.production import make

    def talkative(*arguments: Any) -> make.Result:
        print("Skip loading CUDA and cuDNN DLLs since torch is imported.")
        return make_engines(*arguments)

    make_engines = make.make_engines
    monkeypatch.setattr(make, "make_engines", talkative)
    engines = Path(shutil.copytree(tiny_engines, tmp_path / "set"))
    assert main(build(engines, "--print-path")) == 0
    found = capsys.readouterr()
    assert found.out == f"{engines}\n"
    assert "Skip loading CUDA" in found.err
    assert "is up to date" in found.err


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this a machine with a GPU where `auto` is the target that is named."""

    def have(target: str) -> None:
        for module in ("gpu", "target"):
            monkeypatch.setattr(f"dreamactor.engines.{module}.local_gpu", lambda: Gpu("A Card", "sm89", 2**34, "13.0"))
        monkeypatch.setattr("dreamactor.engines.target._automatic", lambda: target)

    return have


@pytest.mark.parametrize(("target", "precision"), [("tensorrt", "bf16"), ("cuda", "fp16")])
def test_without_a_folder_the_set_for_this_machines_gpu_is_taken(
    tmp_path: Path,
    tiny_engines: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    on_a_gpu: Callable[[str], None],
    target: str,
    precision: str,
) -> None:
    from dreamactor.commands import serve

    parser = ArgumentParser()
    serve.configure(parser)
    options = parser.parse_args(["--preset", "tiny"])
    on_a_gpu(target)
    monkeypatch.chdir(tmp_path)
    cpu, gpu = Path("build/engines/tiny-fp32-cpu"), Path(f"build/engines/tiny-{precision}-{target}")
    shutil.copytree(tiny_engines, cpu)
    assert engines_of(options) == cpu.resolve()
    assert f"There is no {gpu}, which `make engines` makes" in capsys.readouterr().err
    shutil.copytree(tiny_engines, gpu)
    assert engines_of(options) == gpu
    assert capsys.readouterr().err == f"engines: {gpu}\n"
    named = parser.parse_args(["--engines", str(tiny_engines)])
    assert engines_of(named) == tiny_engines


def test_a_set_of_ones_own_weights_is_taken_as_it_is(
    tmp_path: Path, tiny_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamactor import build

    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(build, "build_set", lambda preset, precision, log: asked.append(preset))
    folder, said = tmp_path / "build/engines/tiny-fp32-cpu", list[str]()
    for copied in (False, True):
        if copied:
            shutil.copytree(tiny_engines, folder)
        build.set_at_hand("tiny", log=said.append)
    assert (asked, said) == (["tiny", "tiny"], [])
    made_of(folder, "my-checkpoint")
    assert (build.set_at_hand("tiny", log=said.append), asked) == (None, ["tiny"] * 3)  # the weights are those of tiny
    made_of(folder, "my-checkpoint", weights="0" * 64)
    assert build.set_at_hand("tiny", log=said.append) == folder
    assert said == [f"engines: {folder}, made of my-checkpoint"]
    made_of(folder, "my-checkpoint", passed=False)
    with pytest.raises(EngineError, match=r"made of my-checkpoint, did not pass.*--engines"):
        build.set_at_hand("tiny", log=said.append)
    assert len(asked) == 3


def made_of(folder: Path, checkpoint: str, passed: bool = True, weights: str | None = None) -> None:
    """Rewrites what a set says that it was made of."""
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "weights": checkpoint, "passed": passed}))
    if weights:
        manifest = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(re.sub(r'("weights_sha256": )"\w+"', rf'\1"{weights}"', manifest))


@pytest.mark.parametrize("name", ["checkpoints/tiny", "./checkpoints/../checkpoints/tiny"])
def test_a_set_of_the_shipped_checkpoint_by_another_name_is_ours(
    tmp_path: Path, tiny_engines: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from dreamactor import build, paths

    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "checkpoints/tiny"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(json.dumps(preset("tiny").to_dict()))
    (checkpoint / "model.safetensors").touch()
    monkeypatch.setattr(paths, "checkpoint", lambda preset: checkpoint)
    monkeypatch.setattr(build, "build_set", lambda preset, precision, log: Path("built"))
    folder = Path(shutil.copytree(tiny_engines, "build/engines/tiny-fp32-cpu"))
    made_of(folder, name, weights="0" * 64)  # older weights, which this folder has no longer
    assert build.set_at_hand("tiny") == Path("built")


def test_animate_takes_that_set_too(
    tmp_path: Path,
    tiny_engines: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    on_a_gpu: Callable[[str], None],
) -> None:
    on_a_gpu("cuda")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_engines, "build/engines/tiny-fp16-cuda")
    assert main([*without_engines(animate(tmp_path, tiny_engines)), "--preset", "tiny"]) == 0
    assert "engines: build/engines/tiny-fp16-cuda\n" in capsys.readouterr().err
    assert (tmp_path / "out.mp4").stat().st_size
    assert [path.name for path in Path("build/engines").iterdir()] == ["tiny-fp16-cuda"]


def test_a_gpu_that_auto_leaves_out_is_named(
    tmp_path: Path, tiny_engines: Path, capsys: pytest.CaptureFixture[str], on_a_gpu: Callable[[str], None]
) -> None:
    engines = Path(shutil.copytree(tiny_engines, tmp_path / "set"))
    on_a_gpu("cpu")
    assert main(build(engines, "--target", "cpu")) == 0
    assert "A Card" not in capsys.readouterr().out
    assert main(build(engines, "--target", "auto")) == 0
    found = capsys.readouterr().out
    assert "A Card is not used: neither TensorRT nor onnxruntime-gpu is installed" in found
    assert "dreamactor doctor" in found


def test_an_unsigned_set_is_refused_where_a_key_is_given(
    tmp_path: Path, tiny_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    for command in (
        animate(tmp_path, tiny_engines, **{"public-key": key}),
        ["serve", "--engines", str(tiny_engines), "--public-key", str(key), "--grpc-port", "0", "--http-port", "0"],
    ):
        assert main(command) == 1
        assert "has no signature" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "--max-clip-mb", "inf"], "--max-clip-mb must be above zero and less than 1e9, not inf"),
        (["serve", "--preset", "tiny"], "--engines names a set that has its own preset and precision"),
        (["serve", "--grpc-port", "70000"], "a port is from 0 to 65535"),
        (["serve", "--host", "nowhere.invalid"], "give another --host"),
        (["build", "--checkpoint", "/nowhere"], "/nowhere is no checkpoint, for it has no config.json"),
        (["build", "--output", str(ROOT)], "is not an engine set: give another folder"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    arguments: list[str], sentence: str, tiny_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = ["--engines", str(tiny_engines)] if arguments[0] == "serve" else ["--preset", "tiny"]
    assert main([*arguments, *engines])
    assert sentence in capsys.readouterr().err


def test_names_are_printed_and_notes_kept_whole_where_there_is_no_terminal(tmp_path: Path, tiny_engines: Path) -> None:
    """Whatever the encoding; and progress says which segment of how many."""
    command = animate(tmp_path, tiny_engines, output=tmp_path / "видео.mp4")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    environment.pop("COLUMNS", None)
    done = subprocess.run([sys.executable, "-m", "dreamactor.cli", *command], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\u0432" in done.stdout
    lines = done.stderr.decode().splitlines()
    assert [line for line in lines if len(line) > 80 and line.startswith("  not seen in the driving clip")]
    assert [line for line in lines if re.search(r"% denoise 1/\d+$", line)]


def test_a_video_sent_to_stdout_is_alone_there(tmp_path: Path, tiny_engines: Path) -> None:
    """Also where the set is looked for, and what is said of that."""
    shutil.copytree(tiny_engines, tmp_path / "build/engines/tiny-fp32-cpu")
    command = animate(tmp_path, tiny_engines, **{"output": "/dev/stdout", "max-frames": 5})
    assert main(animate(tmp_path, tiny_engines, **{"max-frames": 5})) == 0
    for arguments in (command, [*without_engines(command), "--preset", "tiny"]):
        call = [sys.executable, "-m", "dreamactor.cli", *arguments]
        piped = subprocess.run(call, capture_output=True, check=True, cwd=tmp_path)
        assert piped.stdout == (tmp_path / "out.mp4").read_bytes()
    assert b"is up to date" in piped.stderr


def test_a_shorter_clip_has_fewer_frames_at_most() -> None:
    from dreamactor.commands.common import add_limits, limits_of

    parser = ArgumentParser()
    add_limits(parser)
    assert limits_of(parser.parse_args(["--max-clip-seconds", "5"])) == Limits(clip_seconds=5, clip_frames=125)


def test_a_longer_clip_may_have_more_frames() -> None:
    from dreamactor.commands.common import add_limits, limits_of

    parser = ArgumentParser()
    add_limits(parser)
    longer = limits_of(parser.parse_args(["--max-clip-seconds", "300", "--max-clip-mb", "2.5"]))
    assert longer == Limits(clip_seconds=300, clip_frames=7500, clip_bytes=2_500_000)
