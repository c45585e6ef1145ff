"""The GPU check's own logic, its cases run small through the interpreter: what passes, what fails, what is withheld."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dreamactor.benchmark import gpu_cases, gpu_graphs, gpu_kernels, gpu_plot, gpu_timing
from dreamactor.kernels import dispatch, tiles
from dreamactor.kernels.tiles import Tile

Load = Callable[[str], ModuleType]
ROOT = Path(__file__).resolve().parents[2]
TILES = {
    "norm_rope": Tile(8, 2, 4, 1), "modulate_norm": Tile(4, 0, 4, 1), "fp8_attention": Tile(64, 64, 4, 1),
    "face_attention": Tile(16, 0, 4, 1), "two_segment": Tile(32, 16, 4, 1), "sparse_attention": Tile(128, 64, 4, 1),
}  # fmt: skip
SMALL: dict[str, Callable[[], gpu_cases.Case]] = {
    "two_segment": lambda: gpu_cases.attention(70, 9, 2, 64, torch.float16, timed=False),
    "fp8_attention": lambda: gpu_cases.fp8_attention(130, 20, 2, timed=False),
    "norm_rope": lambda: gpu_cases.norm_rope(11, 3, 64, timed=False),
    "norm_rope to E4M3": lambda: gpu_cases.norm_rope_fp8(150, 2, 64, timed=False),
    "face_attention": lambda: gpu_cases.face_attention(3, 19, 3, 64, timed=False),
    "sparse_attention": lambda: gpu_cases.sparse_attention((3, 5, 6), 2, 64, timed=False),
    "modulate_norm": lambda: gpu_cases.modulate_norm(3, 7, 96, timed=False),
}


@pytest.fixture
def on_cpu(interpreted: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases on the CPU: interpreted kernels, this table's tiles instead of a device's."""
    names = ("face", "fp8", "modulate", "rotary", "sparse", "two_segment")
    for name in names:
        monkeypatch.setattr(gpu_cases, name, interpreted(name))
    monkeypatch.setattr(gpu_cases, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_cases, "REFERENCE_TOKENS", 33)
    monkeypatch.setattr(dispatch, "architecture", lambda device: 90)
    monkeypatch.setattr(tiles, "tiles", lambda kernel, arch, size: (TILES[kernel],))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("kernel", SMALL)
def test_cases_pass_and_a_wrong_kernel_fails(kernel: str) -> None:
    case = SMALL[kernel]()
    entry = gpu_kernels.measure(case, {})
    row = entry["tiles"][TILES[case.kernel].name]
    assert entry["passed"], row
    assert row["error"] > 0
    assert "ms" not in row

    right = case.run

    def wrong(tile: Tile) -> Any:
        result = right(tile)
        parts = result if isinstance(result, tuple) else (result,)
        parts[-1].mul_(1.1)
        return result

    case.run = wrong
    assert not gpu_kernels.measure(case, {})["passed"]

    def incomplete(tile: Tile) -> Any:
        result = right(tile)
        (result[-1] if isinstance(result, tuple) else result).flatten()[-1] = float("nan")
        return result

    case.run = incomplete
    assert not gpu_kernels.measure(case, {})["passed"]


@pytest.mark.usefixtures("on_cpu")
def test_no_figure_for_a_kernel_that_failed_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed check of one shape withholds the timings of all its shapes, not those of other kernels."""

    def timed(name: str) -> gpu_cases.Case:
        case = SMALL[name]()
        case.timed = True
        return case

    def broken() -> gpu_cases.Case:
        case = SMALL["norm_rope"]()
        right = case.run
        case.run = lambda tile: right(tile) * 2
        return case

    monkeypatch.setattr(gpu_timing, "median_ms", lambda function: 1.0)
    monkeypatch.setattr(gpu_cases, "CHECKED", {"norm_rope": [broken]})
    makes = {name: [lambda name=name: timed(name)] for name in ("norm_rope", "face_attention")}
    monkeypatch.setattr(gpu_cases, "TIMED", makes)
    peaks = {"bf16_tflops": 900.0, "fp8_tflops": 1800.0, "copy_gbps": 3000.0}
    entries = gpu_kernels.run(True, "", peaks, time.monotonic() + 100)
    assert [entry["passed"] for entry in entries] == [False, True, True]
    assert "fastest" not in entries[1]
    assert "ms" not in json.dumps(entries[1])
    assert entries[2]["tiles"][entries[2]["fastest"]]["of_peak"] > 0
    assert "GB/s" in gpu_kernels._line(entries[2])
    late = gpu_kernels.run(True, "face", peaks, time.monotonic() - 1)
    assert [entry["passed"] for entry in late] == [None]


@pytest.mark.usefixtures("on_cpu")
def test_what_a_device_cannot_do_is_skipped_and_what_breaks_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "architecture", lambda device: 80)
    entry = gpu_kernels._measured("fp8_attention", SMALL["fp8_attention"], {})
    assert entry["passed"] is None
    assert "no tiles for sm_80" in entry["case"]
    assert gpu_kernels._measured("norm_rope", SMALL["norm_rope to E4M3"], {})["passed"] is None

    def breaks() -> gpu_cases.Case:
        raise MemoryError("too large")

    entry = gpu_kernels._measured("norm_rope", breaks, {})
    assert entry["passed"] is False
    assert "too large" in json.dumps(entry)
    assert "FAILED" in gpu_kernels._line(entry)


def test_operators_of_the_graph_check_agree_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cases, shapes and bounds, without the GPU's own ways."""
    monkeypatch.setattr(gpu_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_graphs, "WAYS", {"eager": gpu_graphs._eager})
    rows = gpu_graphs.check_all()
    assert {row["kernel"] for row in rows} == set(tiles.kernels())
    assert all(row["passed"] for row in rows), rows
    monkeypatch.setattr(gpu_graphs, "WAYS", {"eager": lambda operator, arguments: torch.zeros(())})
    assert not any(row["passed"] for row in gpu_graphs.check_all())


def test_goals_are_judged_from_the_report() -> None:
    def entry(kernel: str, case: str, row: dict[str, float], peers: dict[str, Any]) -> dict[str, Any]:
        return {"kernel": kernel, "case": case, "tiles": {"a": row}, "fastest": "a", "peers": peers, "passed": True}

    report = {
        "kernels": [
            entry("two_segment", "16384 D128", {"ms": 2.0, "tflops": 530.0}, {"flash": {"ms": 2.2}, "cudnn": {}}),
            entry("sparse_attention", "D128", {"ms": 1.0, "tflops": 400.0}, {}),
            entry("face_attention", "D128", {"ms": 1.0, "gbps": 2000.0}, {"masked efficient": {"ms": 3.5}}),
            entry("modulate_norm", "x", {"ms": 1.0, "gbps": 2000.0, "of_peak": 0.8}, {}),
            {"kernel": "norm_rope", "case": "x", "tiles": {}, "passed": False},
        ]
    }
    met = {goal["measure"]: goal["met"] for goal in gpu_plot.goals(report)}
    assert met == {
        "tflops": True, "speed against the best backend after concatenating": True,
        "of the dense kernel's tflops": False, "speed against masked SDPA": True, "of_peak": False,
    }  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_runs_from_a_checkout_and_says_that_there_is_no_gpu() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmark" / "gpu_kernels.py"), "--check"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "no CUDA GPU" in result.stderr


def test_every_kernel_of_the_table_is_checked_and_timed() -> None:
    assert set(gpu_cases.CHECKED) == set(gpu_cases.TIMED) == set(tiles.kernels())
