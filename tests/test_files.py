"""Files written whole, and how a command ends whose output has nobody to read it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamactor.errors import InputError
from dreamactor.files import check_output, make_folder, write_whole


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target.mp4"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    write_whole(pipe, b"video")
    assert reader.communicate(timeout=20)[0] == b"video"
    assert pipe.is_fifo()
    link.symlink_to(target)
    write_whole(link, b"video")
    assert link.is_symlink()
    assert target.read_bytes() == b"video"


def test_a_link_is_checked_where_it_leads(tmp_path: Path) -> None:
    link = tmp_path / "video.mp4"
    link.symlink_to("nowhere/video.mp4")
    with pytest.raises(InputError, match=r"nowhere/video\.mp4 cannot be written: give a file name in a folder that"):
        check_output(link)
    (tmp_path / "nowhere").mkdir()
    check_output(link)


def test_the_longest_name_that_a_file_may_have_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("v" * 251 + ".mp4")
    write_whole(path, b"video")
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [(path.name, b"video")]


@pytest.mark.parametrize(
    "last",
    [
        "print('more', flush=True)",
        "sys.stdout.write('more')",
        "from dreamactor.files import write_whole; write_whole(__import__('pathlib').Path('/dev/stdout'), b'more')",
    ],
)
def test_a_reader_that_leaves_early_is_no_error(last: str) -> None:
    """As in `dreamactor engines list | head -1`: what is said after that has nowhere to go, also at the very end."""
    code = (
        "import sys; from dreamactor.errors import guarded\n"
        f"def work():\n    print('first', flush=True); sys.stdin.readline(); {last}\n"
        "sys.exit(guarded(work, 'test'))"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate("it has gone\n")
    assert (process.returncode, said) == (141, "")


def test_another_broken_pipe_is_one() -> None:
    code = (
        "import os, sys; from dreamactor.errors import guarded\n"
        "def work():\n    raise BrokenPipeError(32, 'Broken pipe')\n"
        "sys.exit(guarded(work, 'test'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "test: Broken pipe: no file named\n")


@pytest.mark.parametrize("redirected", [">&-", ">&- 2>&-"])
def test_a_closed_output_is_no_error(redirected: str) -> None:
    """As a supervisor may start it."""
    program = f"{sys.executable} -m dreamactor.cli engines list --store /nowhere"
    assert subprocess.run(f"{program} {redirected}", shell=True, check=False).returncode == 0


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b")
    (tmp_path / "file").write_text("x")
    for path, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file/c", "Not a directory")):
        with pytest.raises(InputError, match=f"The folder {path} cannot be made: {reason}"):
            make_folder(path)
