"""The operators that the GPU check runs compiled and captured, here on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dreamactor.benchmark import gpu_graphs, gpu_report
from dreamactor.kernels import tiles
from tests.benchmark.gpu_testing import LATER


def test_operators_of_the_graph_check_agree_eagerly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its cases, shapes and bounds, without the GPU's own ways."""
    monkeypatch.setattr(gpu_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_graphs, "WAYS", {"eager": gpu_graphs._eager})
    report = gpu_report.Report(tmp_path / "report.json")
    gpu_graphs.check_all(report, "first", "", LATER)
    rows = report.data["compiled_and_graphs"]
    assert {row["kernel"] for row in rows} == set(tiles.kernels())
    assert all(row["passed"] for row in rows), rows
    halved = {"eager": lambda operator, arguments: operator(*(a.bfloat16() for a in arguments[:5]), arguments[5])}
    monkeypatch.setattr(gpu_graphs, "WAYS", halved)  # a kernel took what it cannot: the fallback is told from it
    assert gpu_graphs.check("two_segment", gpu_graphs.FALLBACK)["eager"] > gpu_graphs.bound("", gpu_graphs.FALLBACK)
    monkeypatch.setattr(gpu_graphs, "WAYS", {"eager": lambda operator, arguments: torch.zeros(())})
    key = ("face_attention", "")
    operator, plain, make = gpu_graphs.CASES[key]
    monkeypatch.setitem(gpu_graphs.CASES, key, (operator, plain, lambda: (*make(), 1 // 0)))
    gpu_graphs.check_all(report, "second", "", LATER)
    assert not any(row["passed"] for row in report.data["compiled_and_graphs"])
    assert len(report.data["compiled_and_graphs"]) == len(rows)
