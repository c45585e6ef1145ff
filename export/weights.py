"""Weights that stay on disk: a large model is its graph alone in memory, and each tensor is read where it is needed.

An external tensor of a model loaded here names its file by an absolute path, so that copies of the model need no
folder; `save` writes the relative path that ONNX wants.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

LARGE = 2**28  # bytes of weights from which they lie beside the model; protobuf itself ends at 2 GiB
_SMALL = 1024  # bytes of a tensor that stays in the graph all the same
_ALIGNMENT = 4096  # bytes: a page, so that runtimes can map each tensor


def load(path: Path) -> ModelProto:
    """The model at `path`; weights that lie beside it are named, not read."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str((path.parent / entry.value).resolve())
    return model


def array(tensor: TensorProto) -> np.ndarray:
    """The tensor's values; those of an external one are a read-only map of its file."""
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype, offset = helper.tensor_dtype_to_np_dtype(tensor.data_type), int(place.get("offset", 0))
    return np.memmap(place["location"], dtype, "r", offset, tuple(tensor.dims))


def is_external(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def size(tensor: TensorProto) -> int:
    """Bytes of its values, wherever they are."""
    return int(np.prod(tensor.dims, dtype=np.int64)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def is_large(model: ModelProto) -> bool:
    """Whether the weights belong beside the model."""
    return sum(map(size, model.graph.initializer)) > LARGE


def overflows(model: ModelProto) -> bool:
    """Whether the weights that the model has in memory are more than it should be written with."""
    return sum(size(tensor) for tensor in model.graph.initializer if not is_external(tensor)) > LARGE


def serialize(model: ModelProto) -> tuple[bytes, str]:
    """The model's bytes, and the folder that its external weights lie in ("" where there are none)."""
    places = [entry for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"]
    paths = [Path(entry.value) for entry in places]
    folders = {str(path.parent) for path in paths}
    if len(folders) > 1:
        raise ValueError(f"weights in several folders: {', '.join(sorted(folders))}")
    try:
        for entry, path in zip(places, paths, strict=True):
            entry.value = path.name
        return model.SerializeToString(), folders.pop() if folders else ""
    finally:
        for entry, path in zip(places, paths, strict=True):
            entry.value = str(path)


def map_weights(options: Any, folder: str) -> None:
    """For a session of `serialize`'s bytes: ONNX Runtime maps weights where they lie, in `folder`, and makes no copy of
    them, neither packed for products nor of another type, and no room for all of them at once."""
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", "65536")


def save(model: ModelProto, path: Path) -> None:
    """Writes `model` to `path`, and its weights to `<path>.data` where they are large, one tensor at a time."""
    written, beside = _without_weights(model), path.with_name(f"{path.name}.data").resolve()
    beside.unlink(missing_ok=True)
    with ExitStack() as opened:
        file = opened.enter_context(beside.open("wb")) if is_large(model) else None
        for tensor in model.graph.initializer:
            if file is not None and size(tensor) >= _SMALL:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                written.graph.initializer.append(_reference(tensor, beside, file.tell()))
                file.write(np.ascontiguousarray(array(tensor)).reshape(-1).view(np.uint8).data)
            elif is_external(tensor):
                written.graph.initializer.append(numpy_helper.from_array(np.array(array(tensor)), tensor.name))
            else:
                written.graph.initializer.append(tensor)
    path.write_bytes(serialize(written)[0])


def _without_weights(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    for source, target in ((model, copy), (model.graph, copy.graph)):
        for field, value in source.ListFields():
            if isinstance(value, int | str):
                setattr(target, field.name, value)
            elif field.name not in ("graph", "initializer"):
                getattr(target, field.name).extend(value)
    return copy


def _reference(tensor: TensorProto, location: Path, offset: int) -> TensorProto:
    """`tensor` with its values at `offset` in `location`."""
    reference = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    reference.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", size(tensor))):
        reference.external_data.add(key=key, value=str(value))
    return reference
