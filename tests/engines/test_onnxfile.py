"""No place in an ONNX where a tensor may name a file is overlooked: checked against onnx's own description of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from onnx import ModelProto, TensorProto

from dreamactor.engines.onnxfile import external_files
from dreamactor.errors import EngineError


def ways(message: Any, seen: tuple[str, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The fields from a message to each kind of tensor in it, no message twice on the way."""
    for field in message.fields:
        inner = field.message_type
        if inner is None or inner.name in seen:
            continue
        if inner.name == "TensorProto":
            yield (field,)
        else:
            yield from ((field, *rest) for rest in ways(inner, (*seen, message.name)))


WAYS = list(ways(ModelProto.DESCRIPTOR))


def test_there_are_ways_to_look_at() -> None:
    names = {" ".join(field.name for field in way) for way in WAYS}
    assert {"graph initializer", "graph node attribute t", "functions attribute_proto t"} <= names


@pytest.mark.parametrize("way", WAYS, ids=lambda way: ".".join(field.name for field in way))
def test_external_data_is_found_wherever_a_tensor_may_be(way: tuple[Any, ...]) -> None:
    model = ModelProto()
    inner: Any = model
    for field in way:
        value = getattr(inner, field.name)
        inner = value.add() if hasattr(value, "add") else value
    inner.data_location = TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="../secret")
    assert external_files(model.SerializeToString(), "a.onnx") == {"../secret"}


def test_a_fields_number_that_others_cut_short_hides_nothing() -> None:
    """ONNX Runtime's protobuf keeps the lower 32 bits of it: field 7, the graph, with more above."""
    model = ModelProto()
    model.graph.initializer.add(data_location=TensorProto.EXTERNAL).external_data.add(key="location", value="secret")
    graph = model.graph.SerializeToString()
    key = (7 << 3 | 2) | 1 << 32
    digits = bytes([*((key >> shift & 0x7F) | 0x80 for shift in range(0, 28, 7)), key >> 28])
    assert len(graph) < 128
    hidden = digits + bytes([len(graph)]) + graph
    with pytest.raises(EngineError, match="a field's number is too large"):
        external_files(hidden, "a.onnx")
