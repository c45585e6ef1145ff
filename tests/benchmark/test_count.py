"""Operations against PyTorch's own count, and the roof."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dreamactor.benchmark import roofline
from dreamactor.benchmark.count import Work, count
from dreamactor.benchmark.roofline import COPY_BYTES, PRODUCT_SIZE, Peaks, measure_peaks, placed
from dreamactor.errors import MissingDependency
from dreamactor.export.graphs import graph
from dreamactor.interfaces import NETWORKS, Size, random_inputs
from dreamactor.networks import build
from dreamactor.presets import preset

TINY = preset("tiny")


@pytest.mark.parametrize("size", [Size.of(TINY), Size(5, 96, 64, references=3)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_operations_equal_pytorchs_count(tiny_engines: Path, name: str, size: Size) -> None:
    inputs = random_inputs(TINY, name, size, seed=0)
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        graph(build(TINY), name).module(**tensors)

    work = count(tiny_engines / f"{name}.onnx", inputs)

    expected = counter.get_total_flops()
    if name != "denoiser":
        assert work.operations == expected
    else:  # the last block's reference output is read by nobody: exported away, but run by PyTorch
        assert 0.85 * expected < work.operations <= expected
        assert work.attention > 0
    assert work.moved > work.compulsory / 2 > 0


def test_the_roof() -> None:
    peaks = Peaks(operations=100e9, bytes=10e9, how="by hand")
    compute, memory = Work(matmul=10**9, moved=10**6), Work(matmul=10**6, moved=10**9, compulsory=10**9)
    assert peaks.ridge == 10
    assert peaks.floor(compute) == pytest.approx(0.01)
    assert peaks.floor(memory) == pytest.approx(0.1)
    found = placed(compute, 0.02, peaks)
    assert found["mfu"] == found["floor_share"] == pytest.approx(0.5)


def test_without_onnx_there_are_no_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as where it is not installed
    with pytest.raises(MissingDependency, match="needs onnx"):
        measure_peaks()


def test_peaks_are_measured() -> None:
    peaks = measure_peaks(rounds=1)
    assert 1e9 < peaks.operations < 1e14
    assert 1e8 < peaks.bytes < 1e13


def test_a_multiply_add_is_two_operations_and_a_copy_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `count`, whose work is divided by them."""
    seconds = iter([4.0, 2.0, 8.0, 4.0])
    monkeypatch.setattr(roofline, "_time", lambda work: next(seconds))
    peaks = measure_peaks(rounds=2)
    assert (peaks.operations, peaks.bytes) == (PRODUCT_SIZE**3, COPY_BYTES / 2)
