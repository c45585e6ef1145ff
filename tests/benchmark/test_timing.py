"""The timing core: order, samples, warm-up, and what is written down."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from dreamactor.benchmark.environment import conditions, environment, thread_counts
from dreamactor.benchmark.statistics import paired_ratio, percentile
from dreamactor.benchmark.timing import Timing, Yardstick, interleave
from dreamactor.serving.environment import DEFAULT_DIR, ServerEnvironment


def busy(seconds: float) -> None:
    """Keeps the processor busy for so long, however long it has to wait for one."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_each_round_has_an_order_of_its_own_after_the_warm_up() -> None:
    calls: list[str] = []
    cases = {name: (lambda name=name: calls.append(name)) for name in "abc"}

    found = interleave(cases, rounds=60, warmup=2)

    assert "".join(calls[:6]) == "abcabc"
    rounds = ["".join(calls[at : at + 3]) for at in range(6, len(calls), 3)]
    assert {"".join(sorted(order)) for order in rounds} == {"abc"}
    followers = [pair for order in rounds for pair in (order[:2], order[1:])]
    assert all(12 <= followers.count(pair) <= 28 for pair in ("ab", "ac", "ba", "bc", "ca", "cb"))  # 20 on average
    assert all(len(timing.samples) == 60 for timing in found.values())


def test_fresh_inputs_come_before_each_round_and_off_the_clock() -> None:
    rounds: list[int] = []

    def fresh(index: int) -> None:
        rounds.append(index)
        busy(0.01)

    timing = interleave({"x": lambda: None}, rounds=4, fresh=fresh)["x"]
    assert rounds == [0, 1, 2, 3]
    assert max(timing.seconds) < 0.01


def test_times_are_those_of_the_work() -> None:
    found = interleave({"one": lambda: busy(0.004), "three": lambda: busy(0.012)}, rounds=9)
    one, three = found["one"], found["three"]
    assert one.median().value >= 0.004
    assert three.median().value >= 0.012
    assert percentile(three.blocks("processor"), 50).value >= 0.012
    assert paired_ratio(three.seconds, one.seconds).value > 1
    assert all(sample.yardstick > 0 for sample in one.samples)


def test_the_yardstick_leaves_the_other_cores_alone() -> None:
    yardstick = Yardstick()
    whole, own = time.process_time(), time.thread_time()
    for _ in range(10):
        yardstick.run()
    own = time.thread_time() - own
    assert time.process_time() - whole < 1.3 * own


def test_json_round_trip_keeps_every_sample_and_block() -> None:
    first = interleave({"x": lambda: busy(0.001)}, 3)["x"]
    second = interleave({"x": lambda: busy(0.001)}, 2, block=1)["x"]
    whole = first.merged(second)

    values = whole.to_dict()

    assert Timing.from_dict(values) == whole
    assert [len(block) for block in whole.blocks()] == [3, 2]
    assert values["runs"] == 5
    assert values["p50"]["low"] <= values["p50"]["value"] <= values["p50"]["high"] <= values["p99"]["high"]


def test_the_machine_is_written_down() -> None:
    found = environment()
    assert found["cores"] >= 1
    assert found["processor"] not in ("", "unknown")
    assert found["packages"]["numpy"]
    assert found["date"].endswith("+00:00")
    assert found["threads"]["onnxruntime"] == found["cores"]
    assert set(conditions()) == {"load", "clock_mhz", "temperature_c", "available_bytes", "gpu"}


def test_the_threads_and_the_servers_versions_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    found = thread_counts()
    assert (found["OMP_NUM_THREADS"], found["torch"]) == ("3", torch.get_num_threads())
    assert "MKL_NUM_THREADS" not in found

    monkeypatch.chdir(tmp_path)
    assert environment()["server_packages"] == {}
    installed = ServerEnvironment(DEFAULT_DIR).site_packages / "nvidia_pytriton-0.7.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-pytriton\nVersion: 0.7.0\n")
    assert environment()["server_packages"] == {"nvidia-pytriton": "0.7.0"}
