"""Processes that render: none outlives the one that started it, and a failure is told of at once."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dreamactor.errors import DreamActorError
from dreamactor.presets import preset
from dreamactor.training.assets import mocap_folder
from dreamactor.training.clip_store import ClipStore
from dreamactor.training.rendering import Order, prepare
from tests.disk import full_disk

TINY = preset("tiny")
SCRIPT = """
import sys
from multiprocessing.connection import wait
from pathlib import Path
from dreamactor.training.rendering import Background, Order

if __name__ == "__main__":
    folder, mocap, height, width, fps = sys.argv[1:]
    background = Background(Order(Path(folder), "train", 2000, Path(mocap), (int(height), int(width)), int(fps)), 2)
    try:
        while background.go_on() < 4:
            wait([process.sentinel for process in background.processes], 0.02)
        print(*(process.pid for process in background.processes), flush=True)
        background.processes[0].join()
    finally:
        background.stop()
"""


def order(folder: Path, count: int) -> Order:
    return Order(folder / "clips_train", "train", count, mocap_folder(), (TINY.height, TINY.width), TINY.fps)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(new_run: Callable[[str], Path], tmp_path: Path, sign: signal.Signals) -> None:
    script, wanted = tmp_path / "renders.py", order(new_run("left"), 1)
    script.write_text(SCRIPT)
    arguments = [wanted.folder, wanted.mocap, *wanted.size, wanted.fps]
    command = [sys.executable, str(script), *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        workers = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        if sign == signal.SIGINT:
            os.killpg(parent.pid, sign)  # as a terminal does
        else:
            parent.send_signal(sign)
        ended = [bool(select.select([worker], [], [], 60)[0]) for worker in workers]  # a busy disk holds them
        for worker, gone in zip(workers, ended, strict=True):
            if not gone:
                signal.pidfd_send_signal(worker, signal.SIGKILL)
            os.close(worker)
        said = parent.stderr.read()
    assert ended == [True, True]
    assert "SpawnProcess" not in said


def test_one_that_fails_ends_the_others(new_run: Callable[[str], Path]) -> None:
    assert not multiprocessing.active_children()  # another test's would be taken for one of these
    wanted = order(new_run("fails"), 1000)
    with ThreadPoolExecutor(1) as pool:
        rendered = pool.submit(prepare, wanted, 2)
        while len(workers := multiprocessing.active_children()) < 2:
            assert not rendered.done()
        workers[0].kill()
        with pytest.raises(DreamActorError, match="has failed"):
            rendered.result(60)
    assert not multiprocessing.active_children()
    assert ClipStore(wanted.folder).there.sum() < wanted.count


def test_a_full_disk_does_not_forget_what_a_folder_holds(new_run: Callable[[str], Path]) -> None:
    wanted = order(new_run("full"), 3)
    with full_disk(10), pytest.raises(OSError, match="large"):
        replace(wanted, count=4).finish()
    assert ClipStore(wanted.folder).count == 3
