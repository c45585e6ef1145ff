"""The store finds what was made, makes it once, and is never left with something half-made."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from dreamactor.engines.store import Store
from dreamactor.engines.store import _locked as locked
from dreamactor.errors import EngineError

KEY = {"network": "denoiser", "weights": "abc", "precision": "fp8", "shapes": [1, 2]}


def writer(content: str = "engine"):
    def make(folder: Path) -> dict[str, object]:
        (folder / "model.engine").write_text(content)
        return {"layers": 3}

    return make


def never(folder: Path) -> dict[str, object]:
    raise AssertionError("made again although it was there")


def test_second_time_is_a_hit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, was_there = store.get("engine", KEY, writer())
    assert not was_there
    again, was_there = Store(tmp_path).get("engine", dict(reversed(KEY.items())), never)
    assert was_there
    assert again == first
    assert again.paths[0].read_text() == "engine"
    assert again.facts == {"layers": 3}


@pytest.mark.parametrize("change", [{"weights": "abd"}, {"precision": "int8"}, {"shapes": [1, 3]}, {"version": "2"}])
def test_any_change_of_the_key_is_another_entry(tmp_path: Path, change: dict) -> None:
    store = Store(tmp_path)
    store.get("engine", KEY, writer())
    entry, was_there = store.get("engine", {**KEY, **change}, writer("other"))
    assert not was_there
    assert entry.paths[0].read_text() == "other"
    assert len(list(store.entries())) == 2


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, object]:
        (folder / "half").write_text("half")
        raise EngineError("no such layer")

    store = Store(tmp_path)
    with pytest.raises(EngineError, match="no such layer"):
        store.get("engine", KEY, fail)
    assert store.find("engine", KEY) is None
    assert [path.name for path in (tmp_path / "engine").iterdir() if not path.name.endswith(".lock")] == []


def test_full_disk_is_said_and_the_store_is_unharmed(tmp_path: Path) -> None:
    def full(folder: Path) -> dict[str, object]:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    whole, _ = store.get("engine", KEY, writer())
    with pytest.raises(EngineError, match=r"disk is full where .* is written"):
        store.get("engine", {**KEY, "weights": "new"}, full)
    assert list(store.entries()) == [whole]


def test_cut_entry_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry, _ = store.get("engine", KEY, writer())
    entry.paths[0].write_text("eng")
    assert store.find("engine", KEY) is None
    assert store.get("engine", KEY, writer())[0].paths[0].read_text() == "engine"


def test_an_entry_that_changed_under_its_size_is_made_again(tmp_path: Path) -> None:
    entry, _ = Store(tmp_path).get("engine", KEY, writer())
    assert entry.hashes == (hashlib.sha256(b"engine").hexdigest(),)
    entry.paths[0].write_text("enginf")
    again, was_there = Store(tmp_path).get("engine", KEY, writer())
    assert not was_there
    assert again.paths[0].read_text() == "engine"
    assert Store(tmp_path).get("engine", KEY, never) == (again, True)


def build_slowly(root: str, log: str) -> None:
    def make(folder: Path) -> dict[str, object]:
        with open(log, "a") as file:
            file.write("made\n")
        deadline = time.monotonic() + 0.3  # long enough that the others arrive while it works
        while time.monotonic() < deadline:
            pass
        return writer()(folder)

    Store(root).get("engine", KEY, make)


def test_builds_at_once_make_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=build_slowly, args=(str(tmp_path / "store"), str(log))) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    assert log.read_text() == "made\n"


@pytest.mark.parametrize("tidied_by", ["prune", "the next build of the same"])
def test_killed_build_leaves_nothing_and_blocks_nobody(tmp_path: Path, tidied_by: str) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dreamactor.engines.store import Store\n"
        "def make(folder):\n"
        "    (folder / 'half').write_text('half'); print('building', flush=True); time.sleep(60)\n"
        f"Store(sys.argv[1]).get('engine', {KEY!r}, make)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "building\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    store = Store(tmp_path)
    assert store.find("engine", KEY) is None
    assert list(store.entries()) == []
    (left,) = store.left()
    if tidied_by == "prune":
        store.prune()
        assert list((tmp_path / "engine").iterdir()) == []
    entry, was_there = store.get("engine", KEY, writer())
    assert not was_there
    assert list(store.entries()) == [entry]
    assert not left.exists()
    assert store.left() == []


def test_prune_leaves_alone_what_is_being_made(tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, object]:
        assert Store(tmp_path).left() == []
        Store(tmp_path).prune()
        return writer()(folder)

    entry, _ = Store(tmp_path).get("engine", KEY, make)
    assert Store(tmp_path).find("engine", KEY) == entry
    assert len(list(tmp_path.glob("engine/.*.lock"))) == 1


def test_a_lock_that_prune_removes_under_one_who_waits_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / ".entry.lock"
    with ThreadPoolExecutor(1) as pool, ExitStack() as later:
        with locked(path):
            waiting = pool.submit(lambda: later.enter_context(locked(path)))
            time.sleep(0.1)  # until it waits
            path.unlink()
        assert waiting.result(60)
        with locked(path, wait=False) as held:
            assert not held


def test_prune_keeps_the_most_recently_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = [{**KEY, "weights": str(number)} for number in range(3)]
    for age, key in enumerate(keys):
        entry, _ = store.get("engine", key, writer())
        os.utime(entry.folder / "entry.json", (1000.0 - age, 1000.0 - age))
    removed = store.prune(keep=1)
    assert [entry.key["weights"] for entry in removed] == ["1", "2"]
    assert [entry.key["weights"] for entry in store.entries()] == ["0"]


def test_prune_leaves_what_was_used_lately(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for days in (1, 10):
        entry, _ = store.get("engine", {**KEY, "weights": str(days)}, writer())
        used = time.time() - days * 86400
        os.utime(entry.folder / "entry.json", (used, used))
    assert [entry.key["weights"] for entry in store.prune(older_than_days=5)] == ["10"]
    assert [entry.key["weights"] for entry in store.entries()] == ["1"]


def test_what_is_found_counts_as_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for age in range(2):
        entry, _ = store.get("engine", {**KEY, "weights": str(age)}, writer())
        os.utime(entry.folder / "entry.json", (1000 - age, 1000 - age))
    store.get("engine", {**KEY, "weights": "1"}, never)
    assert [entry.key["weights"] for entry in store.prune(keep=1)] == ["0"]


def test_hit_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    Store(tmp_path).get("engine", KEY, writer())
    code = (
        "import sys, time; from dreamactor.engines.store import Store\n"
        f"assert Store(sys.argv[1]).find('engine', {KEY!r})\n"
        "heavy = ('torch', 'onnx', 'onnxruntime', 'modelopt', 'cv2')\n"
        "print([name for name in heavy if name in sys.modules], time.process_time())"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    heavy, _, seconds = result.stdout.strip().rpartition(" ")
    assert heavy == "[]"
    assert float(seconds) < 2  # of processor time: other work on the machine does not count
