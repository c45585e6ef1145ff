"""A job is wanted as long as its file is there, and nothing leaves one behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dreamactor.serving.jobs import Jobs


def test_job_is_wanted_until_it_is_called_off(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs")
    with jobs.open() as first, jobs.open() as second:
        assert jobs.wanted(first)
        assert jobs.count() == 2
        Jobs(tmp_path / "jobs").call_off(first)  # another process's view of the same folder
        assert (jobs.wanted(first), jobs.wanted(second)) == (False, True)
        assert jobs.count() == 2  # the first has not heard of it yet
    assert not any((tmp_path / "jobs").iterdir())


def test_job_that_failed_or_was_called_off_late_leaves_nothing(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    with pytest.raises(RuntimeError), jobs.open() as token:
        raise RuntimeError
    jobs.call_off(token)
    assert not any(tmp_path.iterdir())


def test_job_of_a_killed_process_counts_no_longer(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from dreamactor.serving.jobs import Jobs\n"
        "with Jobs(Path(sys.argv[1])).open(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    jobs = Jobs(tmp_path)
    with jobs.open() as alive:
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert len(list(tmp_path.iterdir())) == 2
        assert jobs.count() == 1
        assert [path.name for path in tmp_path.iterdir()] == [alive]
        assert jobs.wanted(alive)


def test_only_tokens_are_called_off(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs")
    (tmp_path / "precious").touch()
    for name in ("../precious", "", ".", "/etc/passwd"):
        jobs.call_off(name)
        assert not jobs.wanted(name)
    assert (tmp_path / "precious").exists()


def test_clear_calls_every_job_off(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    with jobs.open() as first, jobs.open() as second:
        jobs.clear()
        assert not jobs.wanted(first)
        assert not jobs.wanted(second)


def test_watching_calls_off_as_soon_as_the_caller_has_gone(tmp_path: Path) -> None:
    jobs, gone, looked = Jobs(tmp_path), threading.Event(), threading.Event()

    def is_cancelled() -> bool:
        looked.set()
        return gone.is_set()

    with jobs.open() as token, jobs.watching(token, is_cancelled):
        assert looked.wait(5)
        assert jobs.wanted(token)
        gone.set()
        while jobs.wanted(token):  # the test's own time limit ends a watcher that never looks
            looked.wait(0.01)
