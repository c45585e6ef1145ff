"""What comes of a TensorRT build: which attention is kept, what a set of plans without weights holds.

TensorRT builds on a GPU alone: its builder writes a word here, and everything around it is real.
"""

from __future__ import annotations

import ctypes
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dreamactor.engines import tensorrt
from dreamactor.engines.attention import NATIVE, PLUGIN
from dreamactor.engines.builder import BuildOptions, BuildReport
from dreamactor.engines.manifest import Manifest
from dreamactor.engines.set_writing import EngineFiles, write_set
from dreamactor.engines.sets import read_manifest
from dreamactor.engines.store import Entry
from dreamactor.engines.target import Target, parse_target
from dreamactor.errors import EngineError
from dreamactor.production import engine_build, make
from dreamactor.production.keys import Keys
from dreamactor.production.report import Row, table, to_json
from dreamactor.production.request import make_request
from dreamactor.production.stages import Stages
from tests.engines.conftest import linear_model, record


def stages(tmp_path: Path, build: BuildOptions, **changes: Any) -> Stages:
    """Of a request for TensorRT on a machine with an SM89 card."""
    request = make_request("tiny", "fp16", "cpu", output=tmp_path / "set", store=tmp_path / "store")
    target = Target("tensorrt", "tensorrt", "sm89")
    return Stages(replace(request, target=target, build=build, **changes), lambda what, done, total: None)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways that are built, of two that could be."""
    ways: list[str] = []

    def build(stages: Stages, network: str, onnx: Path, output: Path, way: str, fused_type: str) -> BuildReport:
        ways.append(way)
        output.write_text(f"a plan with {way} attention")
        return BuildReport(0.0, 0, "11.4", {}, (), (), ())

    monkeypatch.setattr(engine_build, "ways", lambda *values: ((NATIVE, PLUGIN), ""))
    monkeypatch.setattr(engine_build, "_build", build)
    return ways


def test_an_engine_for_later_cards_has_no_kernels_of_ours(
    tmp_path: Path, built: list[str], tiny_onnx: dict[str, Path]
) -> None:
    options = BuildOptions(hardware_compatibility="ampere-plus")
    facts = engine_build.build_fastest(stages(tmp_path, options), "denoiser", tiny_onnx["denoiser"], "fp16", tmp_path)
    assert built == [NATIVE]
    assert facts["attention"] == NATIVE
    assert facts["no_plugin"] == "our kernels are compiled for sm89 alone"
    assert (tmp_path / "denoiser.engine").read_text() == "a plan with native attention"


@pytest.mark.parametrize("strip", [False, True])
def test_plans_without_weights_are_timed_with_those_of_their_onnx(
    tmp_path: Path, built: list[str], tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch, strip: bool
) -> None:
    opened: list[object] = []

    class Session:
        def __init__(self, plan: bytes, name: str, runtime: str, weights: tensorrt.Weights | None) -> None:
            opened.append(weights)

        def run(self, inputs: object) -> dict[str, np.ndarray]:
            return {"y": np.ones(1, np.float32)}

        def close(self) -> None:
            pass

    monkeypatch.setattr(tensorrt, "TensorRTSession", Session)
    monkeypatch.setattr(engine_build, "isolated", lambda work, *values: json.loads(json.dumps(work(*values))))
    monkeypatch.setattr(engine_build, "_timed_on", lambda *values: {})
    source = tiny_onnx["denoiser"]
    made = stages(tmp_path, BuildOptions(strip=strip))
    facts = engine_build.build_fastest(made, "denoiser", source, "fp16", tmp_path)
    assert not facts["retry"]
    assert set(facts["attention_ms"]) == {NATIVE, PLUGIN} == set(built)
    assert opened == 2 * [tensorrt.Weights(source.read_bytes(), source) if strip else None]


def faults(*values: object) -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def finds_the_plugin_faster(*values: object) -> dict[str, Any]:
    return {"way": PLUGIN, "milliseconds": {NATIVE: 2.0, PLUGIN: 1.0}, "reason": ""}


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_what_cannot_be_opened_is_not_timed(
    tmp_path: Path, built: list[str], tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real sessions, in the process that times them: no TensorRT is there."""
    monkeypatch.setattr(engine_build, "_timed_on", lambda *values: {})
    made = stages(tmp_path, BuildOptions())
    facts = engine_build.build_fastest(made, "denoiser", tiny_onnx["denoiser"], "fp16", tmp_path)
    assert facts["attention"] == NATIVE
    assert "could not be timed: tensorrt is not installed" in facts["no_plugin"]
    assert facts["retry"]


def no_plugin_for(monkeypatch: pytest.MonkeyPatch, *reasons: str) -> None:
    """One build with the plugin after the other fails, each for its reason."""
    build, waiting = engine_build._build, iter(reasons)

    def fail(stages: Stages, network: str, onnx: Path, output: Path, way: str, fused_type: str) -> BuildReport:
        if way == PLUGIN:
            raise EngineError(next(waiting))
        return build(stages, network, onnx, output, way, fused_type)

    monkeypatch.setattr(engine_build, "_build", fail)


def lowered(made: Stages, onnx: Path) -> Entry:
    """The denoiser in FP16, as far as a build asks."""

    def lower(folder: Path) -> dict[str, Any]:
        shutil.copy(onnx, folder)
        return {"fused_type": "fp16"}

    return made.store.get("precision", {}, lower)[0]


def test_a_plugin_that_was_not_built_is_tried_again(
    tmp_path: Path, built: list[str], tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_plugin_for(monkeypatch, "the builder's process ended with code -9")
    made = stages(tmp_path, BuildOptions())
    facts = engine_build.build_fastest(made, "denoiser", tiny_onnx["denoiser"], "fp16", tmp_path)
    assert (facts["attention"], facts["retry"]) == (NATIVE, True)
    row = Row("denoiser", "fp16", 1, 1, 1, 1.0, 1.0, 60.0, None, True, facts=facts)
    assert "process ended with code -9; the next build tries again" in table([row])


def test_an_engine_that_could_not_be_timed_is_made_again(
    tmp_path: Path, built: list[str], tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "_timed", faults)
    monkeypatch.setattr(engine_build, "_timed_on", lambda *values: {})
    monkeypatch.setattr("dreamactor.production.stages.runtime_version", lambda runtime: "11.4")
    made = stages(tmp_path, BuildOptions())
    precision = lowered(made, tiny_onnx["denoiser"])
    first = made.engine("denoiser", precision)
    assert "could not be timed: its process was ended by SIGSEGV" in first.facts["no_plugin"]
    assert first.paths[0].read_text() == "a plan with native attention"
    assert made.store.find("engine", made.engine_key("denoiser", {})) is None  # for a plan too
    monkeypatch.setattr(engine_build, "_timed", finds_the_plugin_faster)
    second, third = (stages(tmp_path, BuildOptions()).engine("denoiser", precision) for _ in range(2))
    assert second.paths[0].read_text() == "a plan with plugin attention"
    assert third == second
    assert built == [NATIVE, PLUGIN] * 2


def test_what_fails_twice_for_the_same_reason_is_not_tried_again(
    tmp_path: Path, built: list[str], tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_plugin_for(monkeypatch, "code -9", "no shared memory", "no shared memory")
    monkeypatch.setattr("dreamactor.production.stages.runtime_version", lambda runtime: "11.4")
    precision = lowered(stages(tmp_path, BuildOptions()), tiny_onnx["denoiser"])
    made = [stages(tmp_path, BuildOptions()).engine("denoiser", precision) for _ in range(4)]
    assert [entry.facts["retry"] for entry in made] == [True, True, False, False]
    assert built == [NATIVE] * 3


@pytest.mark.parametrize("retry", [False, True])
def test_a_set_with_an_engine_to_be_made_again_is_not_up_to_date(tmp_path: Path, retry: bool) -> None:
    request = stages(tmp_path, BuildOptions(), networks=("denoiser",)).request
    request = replace(request, target=parse_target("cpu"))
    row = Row("denoiser", "fp16", 1, 1, 1, 1.0, 1.0, 60.0, None, True, "", (), {"retry": retry})

    def complete(folder: Path, manifest: Manifest) -> None:
        summary = {"key": make._set_key(Keys(request)), "passed": True, "rehearsed": ""}
        (folder / make.REPORT_JSON).write_text(to_json(summary, [row]))

    files = [EngineFiles(record("denoiser"), (linear_model(tmp_path / "denoiser.onnx"),))]
    write_set(request.output, request.preset, "fp16", "cpu", files, complete=complete)
    assert (make.up_to_date(request) is None) is retry


@pytest.mark.parametrize("strip", [False, True])
def test_a_set_of_plans_without_weights_has_their_onnx(
    tmp_path: Path, tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch, strip: bool
) -> None:
    options = BuildOptions(strip=strip, hardware_compatibility="ampere-plus")
    made = stages(tmp_path, options, networks=("vae_encoder",))

    def lower(folder: Path) -> dict[str, Any]:
        model = onnx.load(tiny_onnx["vae_encoder"])
        where = folder / "vae_encoder.onnx"
        onnx.save(model, where, save_as_external_data=True, location=f"{where.name}.data", size_threshold=0)
        return {"put_back": []}

    def build(folder: Path) -> dict[str, Any]:
        (folder / "vae_encoder.engine").write_bytes(b"plan")
        return {"inputs": [], "outputs": []}

    def run(folder: Path) -> dict[str, Any]:
        (folder / "vae_encoder.example.safetensors").write_bytes(b"example")
        return {}

    example, _ = made.store.get("example", {}, run)
    precision, _ = made.store.get("precision", {}, lower)
    engine, _ = made.store.get("engine", {}, build)
    monkeypatch.setattr(make, "runtime_version", lambda runtime: "11.4")
    monkeypatch.setattr(make, "measure", lambda *values: [])
    monkeypatch.setattr(make, "example", lambda stages, name: example)
    monkeypatch.setattr(make, "_summary", lambda *values: {})
    monkeypatch.setattr(Stages, "onnx", lambda self, name: precision)
    monkeypatch.setattr(make, "to_html", lambda *values: "")
    make._write(made, {"vae_encoder": precision}, {"vae_encoder": engine}, None)
    record = read_manifest(tmp_path / "set").network("vae_encoder")
    names = [file.path for file in record.files]
    assert names == ["vae_encoder.engine", *(["vae_encoder.onnx", "vae_encoder.onnx.data"] if strip else [])]
    assert record.is_stripped is strip
    assert record.architecture == "sm80+"
    assert record.gpu == ""  # any card from there on
    assert record.example is not None
    assert record.example.path == "vae_encoder.example.safetensors"
    assert record.notes == options.notes
    assert any("without weights" in note for note in record.notes) is strip
