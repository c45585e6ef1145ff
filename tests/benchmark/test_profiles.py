"""Profiles: every node in a part, parts that add up to the run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from dreamactor.benchmark.profiles import PARTS, fold, part_of, profile
from dreamactor.engines.onnxruntime import session_options
from dreamactor.interfaces import Size, random_inputs
from dreamactor.presets import preset

TINY = preset("tiny")


def test_a_denoiser_spends_its_time_in_its_parts(tiny_engines: Path) -> None:
    inputs = random_inputs(TINY, "denoiser", Size.of(TINY), 0)
    found = profile(tiny_engines / "denoiser.onnx", partial(session_options, 1), inputs, runs=2)

    parts = found.by_part()
    assert {"attention", "feed-forward", "projections", "norm and modulation"} <= set(parts)
    assert set(parts) <= {*PARTS, "scheduling"}
    assert sum(parts.values()) == pytest.approx(found.session_seconds, rel=0.05)
    assert found.to_dict()["slowest"][0]["seconds"] > 0


@pytest.mark.parametrize(
    ("operator", "scope", "part"),
    [
        ("MatMul", ".transformer.blocks.3.ffn.0", "feed-forward"),
        ("MatMul", ".transformer.blocks.3.attention.qkv", "projections"),
        ("MultiHeadAttention", ".transformer.blocks.3.attention", "attention"),
        ("Attention", ".transformer.blocks.3.face", "face attention"),
        ("Conv", ".vae.encoder.layers.0.conv", "convolution"),
        ("ReorderInput", "", "layout"),
        ("QuickGelu", "", "element-wise"),
        ("RotaryEmbedding", ".transformer.blocks.0.attention", "rotary"),
    ],
)
def test_parts(operator: str, scope: str, part: str) -> None:
    assert part_of(operator, scope) == part


def test_the_median_run_is_folded_and_no_other() -> None:
    def run(at: int, took: int) -> list[dict[str, object]]:
        node = {"cat": "Node", "name": "n_kernel_time", "ts": at + 1, "dur": took - 20, "args": {"op_name": "Conv"}}
        return [{"cat": "Session", "name": "model_run", "ts": at, "dur": took, "args": {}}, node]

    events = [*run(0, 120), *run(10_000, 100), *run(20_000, 5000), *run(30_000, 140)]  # the first is the warm-up
    found = fold(events, {"n": ".layers.0"}, runs=3)

    assert found.session_seconds == pytest.approx(140e-6)
    assert found.by_part() == pytest.approx({"convolution": 120e-6, "scheduling": 20e-6})
