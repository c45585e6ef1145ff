"""The logic of the denoiser's GPU check, small and on the CPU: what is timed, withheld and extrapolated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dreamactor.benchmark import gpu_check, gpu_ways
from dreamactor.benchmark.gpu_denoiser import ROUNDS, extrapolated, judged, measure
from dreamactor.benchmark.gpu_ways import Grid, operations, to_fp8
from dreamactor.presets import TransformerConfig

CONFIG = TransformerConfig(dim=64, depth=5, num_heads=2)
GRID = Grid(2, 4, 6)


def timer(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def test_every_way_is_timed_at_both_depths() -> None:
    result = measure(CONFIG, GRID, (1, 2), "cpu", torch.float32, timer, ("eager", "kernels"))

    assert result["tokens"] == 2 * 2 * 3
    for row in result["ways"].values():
        assert {depth: len(samples) for depth, samples in row["milliseconds"].items()} == {1: ROUNDS, 2: ROUNDS}
        assert row["relative_error"] < 1e-5
        assert row["low"] <= row["step_ms"] <= row["high"]


def test_ways_and_depths_are_timed_in_turn() -> None:
    taken: list[Any] = []

    def clock(call: Any) -> float:
        taken.append(call)
        return float(len(taken))

    result = measure(CONFIG, GRID, (1, 2), "cpu", torch.float32, clock, ("eager", "kernels"))

    assert len(set(taken[:4])) == 4
    assert taken == taken[:4] * ROUNDS
    assert result["ways"]["kernels"]["milliseconds"] == {
        depth: [first + 4.0 * turn for turn in range(ROUNDS)] for depth, first in ((1, 2.0), (2, 4.0))
    }


def test_a_way_that_breaks_has_its_reason_and_no_figure_and_eager_breaks_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> torch.Tensor:
        raise ValueError("no such tile")

    monkeypatch.setattr(gpu_ways.kernels, "face_attention", broken)
    result = measure(CONFIG, GRID, (1, 2), "cpu", torch.float32, timer, ("eager", "kernels"))
    assert result["ways"]["kernels"]["problem"] == "ValueError: no such tile"
    assert "step_ms" not in result["ways"]["kernels"]
    assert "step_ms" in result["ways"]["eager"]

    monkeypatch.setattr(gpu_ways.PLAIN, "face_attention", broken)
    with pytest.raises(ValueError, match="no such tile"):
        measure(CONFIG, GRID, (1, 2), "cpu", torch.float32, timer, ("eager", "kernels"))


def test_a_way_that_is_off_gets_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = gpu_ways.kernels.two_segment_attention
    monkeypatch.setattr(gpu_ways.kernels, "two_segment_attention", lambda *given: exact(*given) * math.nan)

    result = measure(CONFIG, GRID, (1, 2), "cpu", torch.float32, timer, ("eager", "kernels"))

    assert result["ways"]["kernels"]["relative_error"] == math.inf
    assert "step_ms" not in result["ways"]["kernels"]
    assert "step_ms" in result["ways"]["eager"]


def test_operations_grow_by_equal_blocks() -> None:
    counts = [operations(CONFIG, depth, GRID) for depth in (1, 2, 3)]
    block = counts[1] - counts[0]
    assert counts[2] - counts[1] == block
    tokens, reference = GRID.tokens, GRID.rows * GRID.columns // 4
    projections = 2 * (tokens + reference) * CONFIG.dim * CONFIG.dim * (3 + 1 + 8) + 2 * tokens * CONFIG.dim**2 * 2
    assert projections < block < 2 * projections  # the rest is attention


def test_fp8_replaces_the_blocks_products_only() -> None:
    network = gpu_ways.model(CONFIG, 2, "cpu", torch.float32)
    to_fp8(network)
    kinds = {name: type(layer).__name__ for name, layer in network.named_modules()}
    assert kinds["blocks.1.ffn.2"] == kinds["blocks.0.attention.qkv"] == "Fp8Linear"
    assert kinds["patchify"] == kinds["final"] == kinds["time_out"] == "Linear"


def test_extrapolation_and_goals() -> None:
    found = extrapolated({2: [30.0, 30.0, 31.0], 4: [50.0, 54.0, 51.0]}, 28)
    assert found == {
        "block_ms": 10.0, "step_ms": 291.0, "low": 290.0, "high": 342.0, "steps_ms": [290.0, 342.0, 291.0],
    }  # fmt: skip
    assert extrapolated({2: [30.0]}, 28) == {}
    rows = {
        "kernels": {"step_ms": 100.0, "steps_ms": [90.0, 100.0, 120.0]},
        "fp8": {"step_ms": 70.0, "steps_ms": [60.0, 70.0, 100.0]},
    }
    result = judged({"operations": 60 * 10**12, "ways": rows}, {"bf16_tflops": 1000.0})
    assert result["ways"]["kernels"]["of_bf16_peak"] == pytest.approx(0.6)
    ratio = result["goals"]["fp8 over bf16"]
    assert [ratio["low"], ratio["found"], ratio["high"]] == pytest.approx([1.2, 100 / 70, 1.5])


def test_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_check, "local_gpu", lambda: None)
    assert gpu_check.main([]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu_check.main(["nonsense"])
