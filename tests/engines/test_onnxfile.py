"""No place in an ONNX where a tensor may name a file is overlooked: checked against onnx's own description of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from onnx import ModelProto, TensorProto

from dreamactor.engines.onnxfile import external_files


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
