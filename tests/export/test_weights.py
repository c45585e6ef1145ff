"""Weights beside the model: written and read one tensor at a time, and never in the model's own memory."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from dreamactor.export import weights
from dreamactor.export.weights import array, is_external, load, save, serialize


def model(*values: np.ndarray) -> ModelProto:
    """y = x with initializers beside it."""
    edge = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    tensors = [numpy_helper.from_array(value, f"w{index}") for index, value in enumerate(values)]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", edge[:1], edge[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGE", 4096)


VALUES = (
    np.arange(3000, dtype=np.float32).reshape(3, 1000), np.array(2.0, np.float32), np.arange(2048, dtype=np.int8),
    np.linspace(-3, 3, 2000).astype(ml_dtypes.bfloat16), np.linspace(-3, 3, 1500).astype(ml_dtypes.float8_e4m3fn),
)  # fmt: skip


@pytest.mark.usefixtures("small_is_large")
def test_values_survive_the_way_to_disk_and_back_and_on_to_another_folder(tmp_path: Path) -> None:
    original = model(*VALUES)
    save(original, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    first = load(tmp_path / "m.onnx")
    assert [is_external(tensor) for tensor in first.graph.initializer] == [True, False, True, True, True]
    assert len(first.SerializeToString()) < 1500
    (tmp_path / "other").mkdir()
    save(first, tmp_path / "other/copy.onnx")
    (tmp_path / "m.onnx.data").unlink()
    for found in (load(tmp_path / "other/copy.onnx"), onnx.load(tmp_path / "other/copy.onnx"), original):
        for tensor, value in zip(found.graph.initializer, VALUES, strict=True):
            np.testing.assert_array_equal(array(tensor), value)
            assert array(tensor).dtype == value.dtype


@pytest.mark.usefixtures("small_is_large")
def test_a_model_that_became_small_takes_its_weights_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model(*VALUES), tmp_path / "m.onnx")
    beside = load(tmp_path / "m.onnx")
    monkeypatch.setattr(weights, "LARGE", 2**20)
    (tmp_path / "small").mkdir()
    save(beside, tmp_path / "small/m.onnx")
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["m.onnx"]
    np.testing.assert_array_equal(array(load(tmp_path / "small/m.onnx").graph.initializer[0]), VALUES[0])


@pytest.mark.usefixtures("small_is_large")
def test_serialized_names_no_folder_and_the_model_still_does(tmp_path: Path) -> None:
    save(model(*VALUES), tmp_path / "m.onnx")
    loaded = load(tmp_path / "m.onnx")
    content, folder = serialize(loaded)
    assert folder == str(tmp_path.resolve())
    assert str(tmp_path).encode() not in content
    np.testing.assert_array_equal(array(loaded.graph.initializer[0]), VALUES[0])
    assert serialize(model(VALUES[0]))[1] == ""


@pytest.mark.usefixtures("small_is_large")
def test_weights_of_two_folders_cannot_be_run_as_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(model(*VALUES), tmp_path / name / "m.onnx")
    both = load(tmp_path / "a/m.onnx")
    both.graph.initializer.extend(load(tmp_path / "b/m.onnx").graph.initializer)
    with pytest.raises(ValueError, match="several folders"):
        serialize(both)
