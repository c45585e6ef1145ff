"""What lowering leaves for a builder: the type of its attention after a repair, and no operator that crashes it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from dreamactor.engines.session import Array
from dreamactor.export import weights
from dreamactor.export.graphs import example_inputs
from dreamactor.export.precision import lower
from dreamactor.export.quality import keep_high, run_model
from dreamactor.export.quantize import prepare
from dreamactor.export.recipe import Recipe
from dreamactor.export.recipes import recipe
from dreamactor.presets import preset
from dreamactor.production.keys import Keys
from dreamactor.production.lowering import expected_layers, fused_type, lower_network
from dreamactor.production.request import make_request
from dreamactor.production.stages import open_onnx

SELF = ("transformer.blocks.0.attention", "transformer.blocks.1.attention")
FACES = ("transformer.blocks.0.face", "transformer.blocks.1.face")


@pytest.mark.parametrize(
    ("precision", "put_back", "expected"),
    [
        ("fp32", (), ""), ("bf16", (), "bf16"), ("int8", (), "fp16"), ("int8", SELF, "fp16"),
        ("fp16", (), "fp16"), ("fp16", SELF, "fp16"), ("fp16", SELF + FACES, ""),
        ("fp8", (), "fp8"), ("fp8", SELF[:1], "fp8"), ("fp8", SELF, "fp16"),
    ],
)  # fmt: skip
def test_fused_attention_has_the_type_that_a_repair_leaves(
    tiny_onnx: dict[str, Path], precision: str, put_back: tuple[str, ...], expected: str
) -> None:
    chosen = recipe(precision)
    repaired = keep_high(chosen, put_back)
    assert fused_type(prepare(onnx.load(tiny_onnx["denoiser"]), chosen), repaired) == expected
    assert fused_type(prepare(onnx.load(tiny_onnx["vae_decoder"]), chosen), repaired) == ""


def ingredients(denoiser: Path, chosen: Recipe) -> tuple[onnx.ModelProto, dict[str, float], dict[str, Array]]:
    """Of a recipe without ranges, with noise to compare on."""
    feed = {name: value.numpy() for name, value in example_inputs(preset("tiny"), "denoiser").items()}
    return prepare(onnx.load(denoiser), chosen), {}, feed


@pytest.fixture
def lowered(tmp_path: Path, tiny_onnx: dict[str, Path]) -> Callable[..., Path]:
    """The denoiser in FP16 for a target, with modules put back, as the stages have it made; compared on noise."""

    def make(target: str, put_back: tuple[str, ...]) -> Path:
        keys = Keys(make_request("tiny", "fp16", target, output=tmp_path / "set", store=tmp_path / "store"))
        before = SimpleNamespace(facts={"snr_before_repair_db": 0.0, "bytes_before_repair": 0})
        stages = SimpleNamespace(
            keys=keys, ingredients=lambda name: ingredients(tiny_onnx[name], keys.recipe),
            precision=lambda name: before,
        )  # fmt: skip
        folder = tmp_path / f"{target}-{len(put_back)}"
        folder.mkdir()
        facts = lower_network(stages, "denoiser", put_back, folder)  # type: ignore[arg-type]
        assert facts["passed"]
        assert facts["put_back"] == list(put_back)
        assert np.isfinite(list(facts["layer_snr_db"].values())).all()
        return folder / "denoiser.onnx"

    return make


def test_rtx_gets_no_attention_in_fp32(lowered: Callable[..., Path]) -> None:
    """It crashes on `Attention` in FP32; ONNX Runtime, whose node is a function, does not."""

    def operators(path: Path) -> Counter[str]:
        return Counter(node.op_type for node in onnx.load(path).graph.node)

    assert operators(lowered("sm89", ()))["Softmax"] == 0
    rtx, cpu = lowered("sm89", SELF[:1]), lowered("cpu", SELF[:1])
    assert (operators(rtx)["Softmax"], operators(rtx)["Attention"]) == (2, 3)
    assert (operators(cpu)["Softmax"], operators(cpu)["FlashAttention"]) == (0, 3)
    assert expected_layers(rtx, plugin=False) == {"ATTENTION_INPUT": 3}
    assert operators(lowered("sm75", SELF[:1]))["Softmax"] == 0  # whose attention stays FP16


def test_bf16_weights_beside_the_model_are_run_where_they_lie(
    tmp_path: Path, tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    low = lower(onnx.load(tiny_onnx["denoiser"]), "bf16", recipe("bf16").keep_fp32)
    feed = {name: value.numpy() for name, value in example_inputs(preset("tiny"), "denoiser").items()}
    expected = run_model(low, feed)
    monkeypatch.setattr(weights, "LARGE", 4096)
    weights.save(low, tmp_path / "denoiser.onnx")
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # no copy of gigabytes
    session = open_onnx(tmp_path / "denoiser.onnx", "denoiser")
    for name, value in session.run(feed).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-3)
    assert before == ["denoiser.onnx", "denoiser.onnx.data"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gate", "put_back", "passed", "fused"), [(20.0, [], True, "fp16"), (1000.0, [*SELF, *FACES], False, "")]
)
def test_a_network_that_cannot_pass_has_everything_put_back_most_harmful_first_and_fails(
    tmp_path: Path, tiny_onnx: dict[str, Path], gate: float, put_back: list[str], passed: bool, fused: str
) -> None:
    chosen = replace(recipe("fp16"), snr_gate=gate)
    stages = SimpleNamespace(
        keys=SimpleNamespace(recipe=chosen, attention_types=("fp32", "fp16", "bf16")),
        ingredients=lambda name: ingredients(tiny_onnx[name], chosen),
        sensitivity=lambda name: [*SELF, *FACES],
    )
    facts = lower_network(stages, "denoiser", (), tmp_path)  # type: ignore[arg-type]
    assert (facts["put_back"], facts["passed"], facts["fused_type"]) == (put_back, passed, fused)
    assert facts["snr_before_repair_db"] <= facts["snr_db"]
