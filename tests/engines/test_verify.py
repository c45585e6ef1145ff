"""An engine beside FP32 on the example that its set has: measured, or said not to have run and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dreamactor.engines import read_manifest, trust, verify
from dreamactor.engines.verify import Example, compare, verify_engine
from dreamactor.errors import EngineError

from .conftest import linear_model

MakeSet = Callable[..., Path]
X = np.arange(8, dtype=np.float32)[None]


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    return linear_model(tmp_path / "fp32.onnx", 2.0)


@pytest.fixture
def example(fp32: Path) -> Example:
    """What the linear model makes of 0 to 7."""
    return Example({"x": X}, {"y": X @ numpy_helper.to_array(onnx.load(fp32).graph.initializer[0])})


def test_an_engine_is_run_and_compared(make_set: MakeSet, fp32: Path, example: Example) -> None:
    folder = make_set(scale=2.02, example=example)
    compared = verify_engine(folder, "denoiser", fp32)
    assert compared.snr_db == pytest.approx(40, abs=0.01)  # an error of one part in a hundred
    assert compared.latency_ms is not None
    assert compared.reference_ms is not None
    assert compared.problem == ""
    fp32.unlink()
    alone = verify_engine(folder, "denoiser")
    assert alone.snr_db == compared.snr_db
    assert alone.reference_ms is None


@pytest.mark.parametrize(
    ("changes", "inputs", "reason"),
    [
        ({"architecture": "sm42"}, X, "built for sm42"),
        ({"runtime_version": "99.1"}, X, "made for onnxruntime 99.1 or later"),
        ({}, X[:, :7], r"given float32[1, 7]"),
    ],
)
def test_one_that_cannot_run_says_why(
    make_set: MakeSet, example: Example, changes: dict[str, str], inputs: np.ndarray, reason: str
) -> None:
    compared = verify_engine(make_set(example=Example({"x": inputs}, example.outputs), **changes), "denoiser")
    assert reason in compared.problem
    assert compared.latency_ms is compared.snr_db is None


def test_a_set_without_its_example_is_not_compared(make_set: MakeSet, example: Example) -> None:
    with pytest.raises(EngineError, match="has no example of denoiser"):
        verify_engine(make_set(), "denoiser")
    folder = make_set(example=example)
    other = Example(example.inputs, {"y": example.outputs["y"] + 1})
    (folder / "denoiser.example").write_bytes(other.to_bytes())
    with pytest.raises(EngineError, match=r"denoiser\.example has SHA-256 .* it was changed"):
        verify_engine(folder, "denoiser")


def test_an_example_is_a_file_of_the_set_that_no_session_reads(make_set: MakeSet, example: Example) -> None:
    folder = make_set(example=example, external=True)
    found = read_manifest(folder).network("denoiser")
    assert [file.path for file in found.files] == ["denoiser.onnx", "denoiser.onnx.data"]
    assert [file.path for file in found.all_files] == ["denoiser.onnx", "denoiser.onnx.data", "denoiser.example"]
    assert found.example is not None
    read = Example.from_bytes(trust.read_file(folder, found.example))
    np.testing.assert_array_equal(read.inputs["x"], X)
    np.testing.assert_array_equal(read.outputs["y"], example.outputs["y"])


def test_the_worst_output_counts_and_times_are_each_session_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(verify, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def session(seconds: float) -> SimpleNamespace:
        def run(inputs: object) -> dict[str, np.ndarray]:
            clock[0] += seconds
            return {"good": np.ones(4), "bad": np.zeros(4)}

        return SimpleNamespace(run=run)

    example = Example({}, {"good": np.ones(4), "bad": np.ones(4)})
    found = compare("denoiser", session(0.002), example, session(0.003))
    assert [found.latency_ms, found.reference_ms] == pytest.approx([2, 3])
    assert found.snr_db == pytest.approx(0)
