"""TensorRT's layers in parts of the network: on metadata its real parser gives, and on fused layers as documented."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dreamactor import paths
from dreamactor.benchmark.profiles import PARTS, graph_nodes
from dreamactor.benchmark.tensorrt_profiles import _recorder, fold_layers, source_model
from dreamactor.engines.manifest import NetworkRecord
from dreamactor.engines.runtimes import collecting_logger, load_tensorrt
from dreamactor.engines.trust import sha256
from dreamactor.errors import MissingDependency


@pytest.fixture(scope="module")
def trt() -> ModuleType:
    try:
        return load_tensorrt("tensorrt_rtx")
    except MissingDependency as error:
        pytest.skip(str(error))


def parsed_layers(trt: ModuleType, model: Path) -> list[dict[str, Any]]:
    """The layers of a network as TensorRT's parser makes them, in the inspector's words."""
    logger, _ = collecting_logger(trt, "ERROR")
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(model))
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [
        {"Name": layer.name, "LayerType": str(layer.type).split(".")[-1], "Metadata": layer.metadata}
        for layer in layers
        if layer.metadata
    ]


def test_the_parsers_own_metadata_leads_to_the_parts(trt: ModuleType, tiny_onnx: dict[str, Path]) -> None:
    layers = parsed_layers(trt, tiny_onnx["denoiser"])
    seconds = {layer["Name"]: 2e-3 for layer in layers}

    found = fold_layers(json.dumps({"Layers": layers}), seconds, 2, graph_nodes(tiny_onnx["denoiser"]))

    parts = found.by_part()
    assert {"attention", "face attention", "feed-forward", "projections", "norm and modulation"} <= set(parts)
    assert set(parts) <= set(PARTS)
    assert found.session_seconds == pytest.approx(1e-3 * len(seconds))
    products = {node.part for node in found.nodes if node.operator == "MATRIX_MULTIPLY"}
    assert products <= {"attention", "face attention", "feed-forward", "projections", "embedding"}
    convolutions = parsed_layers(trt, tiny_onnx["vae_decoder"])
    times = {layer["Name"]: 1e-3 for layer in convolutions if layer["LayerType"] == "CONVOLUTION"}
    decoder = fold_layers(json.dumps({"Layers": convolutions}), times, 1, graph_nodes(tiny_onnx["vae_decoder"]))
    assert set(decoder.by_part()) == {"convolution"}


def test_a_fused_layer_counts_for_what_it_is_made_for() -> None:
    nodes = {
        "node_MatMul_7": ("MatMul", ".transformer.blocks.3.ffn.0"),
        "node_add_8": ("Add", ".transformer.blocks.3.ffn.0"),
        "node_layer_norm_2": ("LayerNormalization", ".transformer.blocks.3"),
    }
    layers: list[object] = [
        {
            "Name": "fused_1",
            "LayerType": "gemm",
            "Metadata": "[ONNX Layer: node_layer_norm_2]\x1e[ONNX Layer: node_MatMul_7]\x1f[ONNX Layer: node_add_8]",
        },
        {
            "Name": "mha_2",
            "LayerType": "kgen",
            "Metadata": "[ONNX Layer: node_of_t1 | node__symbolic (FlashAttention)]",
        },
        {
            "Name": "mha_3",
            "LayerType": "kgen",
            "Metadata": "[ONNX Layer: node_of_t1 | node__symbolic_2 (FaceAttention)]",
        },
        {"Name": "conv_4", "LayerType": "CaskConvolution", "Metadata": ""},
        {"Name": "copy_5", "LayerType": "Reformat"},
        "a name alone, as of an engine built without details",
    ]
    seconds = {"fused_1": 0.004, "mha_2": 0.003, "mha_3": 0.002, "conv_4": 0.001, "copy_5": 0.0005, "unheard": 0.0005}

    parts = fold_layers(json.dumps({"Layers": layers}), seconds, 1, nodes).by_part()

    assert parts == pytest.approx(
        {"feed-forward": 0.004, "attention": 0.003, "face attention": 0.002, "convolution": 0.001, "layout": 0.001}
    )


def test_the_profiler_adds_up_what_tensorrt_reports(trt: ModuleType) -> None:
    seconds: dict[str, float] = {}
    recorder = _recorder(trt, seconds)
    for milliseconds in (1.5, 2.5):
        recorder.report_layer_time("a", milliseconds)
    recorder.report_layer_time("b", 1.0)
    assert seconds == pytest.approx({"a": 0.004, "b": 0.001})


def test_its_names_are_tensorrts(trt: ModuleType) -> None:
    assert hasattr(trt.ICudaEngine, "create_engine_inspector")
    assert hasattr(trt.IExecutionContext, "profiler")
    assert hasattr(trt.EngineInspector, "execution_context")
    assert hasattr(trt.EngineInspector, "get_engine_information")
    assert hasattr(trt.LayerInformationFormat, "JSON")


def test_an_engines_onnx_is_found_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("old", "new"):
        (tmp_path / "store" / "onnx" / key).mkdir(parents=True)
        (tmp_path / "store" / "onnx" / key / "denoiser.onnx").write_text(key)
    wanted = tmp_path / "store" / "onnx" / "new" / "denoiser.onnx"

    def record(digest: str) -> NetworkRecord:
        return NetworkRecord("denoiser", "fp16", "tensorrt", "11.4", "sm90", (), (), (), digest)

    assert source_model(tmp_path / "m1-fp16-sm90", record(sha256(wanted))) == wanted
    assert source_model(tmp_path / "m1-fp16-sm90", record("0" * 64)) is None
    elsewhere = tmp_path / "gpu-check" / "m1-fp16-sm90"  # a set of `make gpu-check`: what it is made from is not there
    assert source_model(elsewhere, record(sha256(wanted))) is None
    monkeypatch.setattr(paths, "ENGINES", tmp_path)
    assert source_model(elsewhere, record(sha256(wanted))) == wanted
