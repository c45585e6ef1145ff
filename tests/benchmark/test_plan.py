"""What a run sees to around its sections: cores, the output, what is not run and what broke."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamactor.benchmark import sections
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.inputs import media
from dreamactor.benchmark.run import UNFINISHED, main, run
from dreamactor.benchmark.settings import Settings
from dreamactor.benchmark.timing import interleave
from dreamactor.engines.onnxruntime import session_options
from dreamactor.errors import DreamActorError, EngineError, InputError, MissingDependency


def planned(monkeypatch: pytest.MonkeyPatch, work: Callable[[Bench], object]) -> None:
    """Makes `work` the only section there is."""
    monkeypatch.setattr(sections, "PLAN", (("engine", "the section", work),))


def test_threads_are_cores_that_all_it_starts_keep_to(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, found = os.sched_getaffinity(0), dict[str, object]()
    asleep = threading.Event()
    other = threading.Thread(target=asleep.wait)  # a thread of some library that was there before
    other.start()

    def look(bench: Bench) -> None:
        child = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
        found["child"] = int(subprocess.run(child, capture_output=True, check=True).stdout)
        found["session"] = session_options().intra_op_num_threads
        found["other"] = len(os.sched_getaffinity(other.native_id or 0))

    planned(monkeypatch, look)
    try:
        report = run(Settings(engines=tiny_engines, threads=1), print)
        after = os.sched_getaffinity(other.native_id or 0)
    finally:
        asleep.set()
        other.join()
    assert report["failed"] == {}
    assert found == {"child": 1, "session": 1, "other": 1}
    assert report["environment"]["cores"] == 1
    assert report["environment"]["threads"]["onnxruntime"] == 1
    assert after == os.sched_getaffinity(0) == before
    for count in (0, 10_000):
        with pytest.raises(InputError, match="--threads is from 1 to"):
            run(Settings(engines=tiny_engines, threads=count), print)


def test_what_cannot_run_here_is_told_from_what_broke(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(error: Exception) -> Callable[[Bench], object]:
        def work(bench: Bench) -> None:
            raise error

        return work

    for error in (MissingDependency("no"), InputError("no"), EngineError("no")):
        planned(monkeypatch, raises(error))
        report = run(Settings(engines=tiny_engines), print)
        assert (report["not_run"]["the section"], report["failed"]) == ("no", {})
    planned(monkeypatch, raises(DreamActorError("the server could not start")))
    report = run(Settings(engines=tiny_engines), print)
    assert report["failed"] == {"the section": "DreamActorError: the server could not start"}


def test_an_interrupted_run_leaves_the_sections_done_so_far(
    tiny_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(bench: Bench) -> None:
        bench.add("first", interleave({"first": lambda: None}, 3)["first"])

    def second(bench: Bench) -> None:
        kept = json.loads((tmp_path / "report.json").read_text())  # what is left where the process is killed now
        assert kept["timings"]["first"]["runs"] == 3
        assert kept["not_run"] == dict.fromkeys(("the second", "the third"), UNFINISHED)
        bench.add("second", interleave({"second": lambda: None}, 2)["second"])
        raise KeyboardInterrupt

    (tmp_path / "report.html").write_text("of an earlier run")
    plan = (("engine", "the first", first), ("engine", "the second", second), ("engine", "the third", first))
    monkeypatch.setattr(sections, "PLAN", plan)
    with pytest.raises(KeyboardInterrupt):
        main(Settings(engines=tiny_engines, output=tmp_path), say=print)

    report = json.loads((tmp_path / "report.json").read_text())
    assert {name: timing["runs"] for name, timing in report["timings"].items()} == {"first": 3, "second": 2}
    assert report["not_run"] == dict.fromkeys(("the second", "the third"), UNFINISHED)
    assert [moment["before"] for moment in report["conditions"]] == ["the first", "the second"]
    assert report["settings"]["seconds"] > 0
    page = (tmp_path / "report.html").read_text()
    assert UNFINISHED in page
    assert "of an earlier run" not in page


def test_an_output_that_cannot_be_written_is_refused_before_measuring(
    tiny_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(bench: Bench) -> None:
        raise AssertionError("nothing should be measured")

    planned(monkeypatch, measure)
    (tmp_path / "plots").write_text("in the way")
    (tmp_path / "folder" / "report.json").mkdir(parents=True)
    for output in (Path("/dev/null/x"), tmp_path, tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot be written"):
            main(Settings(engines=tiny_engines, output=output), say=print)


def test_the_media_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert media().reference[:4] == b"\x89PNG"
    monkeypatch.setenv("DREAMACTOR_ASSETS", str(tmp_path))
    with pytest.raises(MissingDependency, match="fetch the demo media"):
        media()
    (tmp_path / "media").mkdir()
    for name in ("astronaut.png", "WolfgangLanger_Pexels.mp4"):
        (tmp_path / "media" / name).write_bytes(name.encode())
    assert media().reference == b"astronaut.png"
