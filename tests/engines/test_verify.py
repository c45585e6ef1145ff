"""An engine beside its FP32 network: measured, or said not to have run and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dreamactor.engines.verify import verify_engine

from .conftest import linear_model

X = np.arange(8, dtype=np.float32)[None]


def test_an_engine_is_run_and_compared(make_set: Callable[..., Path], tmp_path: Path) -> None:
    compared = verify_engine(make_set(scale=2.02), "denoiser", linear_model(tmp_path / "fp32.onnx", 2.0), [{"x": X}])
    assert compared.snr_db == pytest.approx(40, abs=0.01)  # an error of one part in a hundred
    assert compared.latency_ms is not None
    assert compared.problem == ""


@pytest.mark.parametrize(
    ("changes", "feed", "reason"),
    [
        ({"architecture": "sm42"}, X, "built for sm42"),
        ({"runtime_version": "99.1"}, X, "made for onnxruntime 99.1 or later"),
        ({}, X[:, :7], r"given float32[1, 7]"),
    ],
)
def test_one_that_cannot_run_says_why(
    make_set: Callable[..., Path], tmp_path: Path, changes: dict[str, str], feed: np.ndarray, reason: str
) -> None:
    compared = verify_engine(
        make_set(**changes), "denoiser", linear_model(tmp_path / "fp32.onnx"), [{"x": np.ascontiguousarray(feed)}]
    )
    assert reason in compared.problem
    assert compared.latency_ms is compared.snr_db is None
