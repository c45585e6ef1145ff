"""Every network as ONNX: valid, equal to PyTorch at sizes it was not exported at, attention kept as one operator."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import onnx
import pytest
import torch
from onnxscript.optimizer import optimize_ir

from dreamactor.errors import InputError
from dreamactor.export import simplify
from dreamactor.export.graphs import example_inputs
from dreamactor.export.onnx import METADATA, OPSET, export_all, export_network
from dreamactor.export.onnxgraph import module_of
from dreamactor.export.parity import OTHER_SIZES, RELATIVE_BOUND, check_parity, format_parity
from dreamactor.interfaces import NETWORKS
from dreamactor.networks import StoredWeights, build, load, save
from dreamactor.presets import preset
from tests.conftest import ROOT

TINY = preset("tiny")


@pytest.mark.parametrize("name", NETWORKS)
def test_parity_at_other_sizes(tiny_onnx: dict[str, Path], name: str) -> None:
    networks, path = build(TINY), tiny_onnx[name]
    onnx.checker.check_model(str(path))
    for sizes in [{}, *OTHER_SIZES[name]]:
        rows = check_parity(networks, name, path, **sizes)
        print(format_parity(rows))
        assert all(row.relative <= RELATIVE_BOUND for row in rows)


def test_a_folder_that_cannot_be_made_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"/dev/null/x cannot be made \(Not a directory\): give another folder"):
        export_all(TINY, build(TINY).state_dict(), Path("/dev/null/x"))


def test_weights_that_stay_on_disk_make_the_same_file(tmp_path: Path) -> None:
    save(build(TINY), tmp_path / "checkpoint", torch.bfloat16)
    stored, loaded = StoredWeights(tmp_path / "checkpoint"), load(tmp_path / "checkpoint").state_dict()
    first = export_network(TINY, stored, "face_motion_encoder", tmp_path / "stored.onnx")
    second = export_network(TINY, loaded, "face_motion_encoder", tmp_path / "loaded.onnx")
    assert first.read_bytes() == second.read_bytes()
    alive = weakref.ref(stored)
    del stored
    gc.collect()
    assert alive() is None  # nothing holds on to what may be large


@pytest.mark.parametrize("name", ["pose_encoder", "denoiser"])
def test_fewer_rules_leave_what_all_of_onnxscripts_do(
    tmp_path: Path, tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(simplify, "simplify", optimize_ir)
    theirs = export_network(TINY, build(TINY).state_dict(), name, tmp_path / f"{name}.onnx")
    assert theirs.read_bytes() == tiny_onnx[name].read_bytes()


def test_parity_check_catches_other_weights(tiny_onnx: dict[str, Path]) -> None:
    other = build(TINY, seed=1)
    rows = check_parity(other, "denoiser", tiny_onnx["denoiser"])
    assert not all(row.passed for row in rows)


def test_denoiser_keeps_attention_whole(tiny_onnx: dict[str, Path]) -> None:
    model = onnx.load(tiny_onnx["denoiser"])
    kinds = [node.op_type for node in model.graph.node if node.domain == "dreamactor"]
    depth = TINY.transformer.depth
    assert kinds.count("FlashAttention") == 2 * depth - 1  # the last block needs no reference output
    assert kinds.count("FaceAttention") == depth
    assert {function.name for function in model.functions} == {"FlashAttention", "FaceAttention"}
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", OPSET), ("dreamactor", 1)}


def test_free_dimensions_are_free(tiny_onnx: dict[str, Path]) -> None:
    model = onnx.load(tiny_onnx["denoiser"], load_external_data=False)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    example = example_inputs(TINY, "denoiser")
    assert set(shapes) == set(example)
    free = [isinstance(size, str) for size in shapes["reference_latent"]]
    assert free == [True, True, False, True, True]


def test_files_say_nothing_of_the_machine_they_were_made_on(tiny_onnx: dict[str, Path]) -> None:
    for path in tiny_onnx.values():
        content = path.read_bytes()
        for trace in (str(ROOT), 'File "', "stack_trace", ".py"):
            assert trace.encode() not in content, f"{path.name} has {trace}"
        model = onnx.load(path)
        kept = {item.key for node in model.graph.node for item in node.metadata_props}
        assert kept == set(METADATA)
    assert any(module_of(node) == "transformer.blocks.0.attention.qkv" for node in model.graph.node)
