"""Engine sets are written whole or not at all, whoever else writes and whenever one is killed."""

from __future__ import annotations

import errno
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamactor.engines import (
    EngineFiles,
    Manifest,
    open_engines,
    read_manifest,
    write_set,
)
from dreamactor.errors import EngineError
from dreamactor.presets import preset

from .conftest import MakeSet, linear_model, record


def test_rewriting_a_set_replaces_it_and_a_failed_write_leaves_it(make_set: MakeSet, tmp_path: Path) -> None:
    folder = make_set("denoiser", "vae_decoder")
    again = make_set("denoiser", scale=3.0)
    assert again == folder
    assert list(read_manifest(folder).networks) == ["denoiser"]
    assert sorted(path.name for path in folder.iterdir()) == ["denoiser.onnx", "manifest.json"]
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(EngineError, match="cannot be written"):
        write_set(folder, preset("tiny"), "fp32", "cpu", [EngineFiles(record("denoiser"), (tmp_path / "gone.onnx",))])
    assert (folder / "manifest.json").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def rewrite(
    folder: Path,
    complete: Callable[[Path, Manifest], None] = lambda folder, manifest: None,
    is_current: Callable[[], bool] = lambda: False,
) -> None:
    """Writes a set of one linear model to `folder`, which may be there."""
    path = linear_model(folder.parent / "denoiser.onnx", 4.0)
    files = [EngineFiles(record("denoiser"), (path,))]
    write_set(folder, preset("tiny"), "fp32", "cpu", files, complete=complete, is_current=is_current)


@pytest.mark.parametrize("current", [False, True])
def test_a_set_that_another_writer_made_meanwhile_stays_where_it_is_current(make_set: MakeSet, current: bool) -> None:
    folder = make_set("denoiser", "vae_decoder")
    before = (folder / "denoiser.onnx").stat().st_ino
    rewrite(folder, is_current=lambda: current)
    assert ((folder / "denoiser.onnx").stat().st_ino == before) is current
    assert not hidden(folder.parent)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_set_is_completed_before_it_takes_its_place(make_set: MakeSet) -> None:
    folder = make_set("denoiser", "vae_decoder")

    def verify(fresh: Path, manifest: Manifest) -> None:
        assert list(read_manifest(folder).networks) == ["denoiser", "vae_decoder"]  # still the one before
        assert list(manifest.networks) == ["denoiser"]
        open_engines(fresh, threads=1).close()
        (fresh / "report.json").write_text("{}")

    rewrite(folder, verify)
    assert sorted(path.name for path in folder.iterdir()) == ["denoiser.onnx", "manifest.json", "report.json"]

    def fail(fresh: Path, manifest: Manifest) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EngineError, match=r"cannot be written to .*: No space left on device"):
        rewrite(folder, fail)
    assert (folder / "report.json").exists()
    assert hidden(folder.parent) == []


@pytest.mark.parametrize("interrupted", [1, 2])
def test_interrupted_between_the_two_renames_the_old_set_comes_back(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch, interrupted: int
) -> None:
    folder, rename = make_set("denoiser", "vae_decoder"), Path.rename
    calls: list[Path] = []

    def stopped(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == interrupted:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        rewrite(folder)
    assert list(read_manifest(folder).networks) == ["denoiser", "vae_decoder"]
    assert hidden(folder.parent) == []


def test_what_a_killed_writer_left_is_tidied_up_by_the_next(make_set: MakeSet) -> None:
    folder = make_set("denoiser", "vae_decoder")
    code = (
        "import sys; from pathlib import Path; from dreamactor.engines import write_set\n"
        "from dreamactor.presets import preset\n"
        "def wait(folder, manifest): print('writing', flush=True); sys.stdin.read()\n"
        "write_set(sys.argv[1], preset('tiny'), 'fp32', 'cpu', [], complete=wait)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    (making,) = hidden(folder.parent)
    elsewhere = folder.with_name(f".set.new.{2**22}-0123abcd")  # its number is one of another container
    folder.with_name(making).rename(elsewhere)
    make_set("denoiser", folder="other")
    assert hidden(folder.parent) == [elsewhere.name]  # its writer lives
    child.kill()
    child.communicate()
    left = folder.with_name(f".set.old.{child.pid}-0123abcd")  # as if it had died between its two renames
    folder.rename(left)
    mine = folder.with_name(".set.new.txt")
    mine.write_text("mine")
    make_set("denoiser", folder="another")
    assert hidden(folder.parent) == [mine.name]
    assert list(read_manifest(folder).networks) == ["denoiser", "vae_decoder"]


def write_again(folder: str) -> None:
    for _ in range(20):
        write_set(folder, preset("tiny"), "fp32", "cpu", [])


def test_writers_at_once_do_not_clash(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_again, args=(str(tmp_path / "set"),)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert read_manifest(tmp_path / "set").networks == {}


def test_a_folder_that_is_no_set_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    path = linear_model(tmp_path / "m.onnx")
    with pytest.raises(EngineError, match="not an engine set"):
        write_set(tmp_path / "mine", preset("tiny"), "fp32", "cpu", [EngineFiles(record("denoiser"), (path,))])
    assert (tmp_path / "mine/thesis.txt").read_text() == "years"


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    files = []
    for name in ("denoiser", "vae_decoder"):
        (tmp_path / name).mkdir()
        files.append(EngineFiles(record(name), (linear_model(tmp_path / name / "model.onnx"),)))
    with pytest.raises(EngineError, match=r"Two files of the set are called model\.onnx"):
        write_set(tmp_path / "set", preset("tiny"), "fp32", "cpu", files)
