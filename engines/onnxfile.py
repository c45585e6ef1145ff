"""Reads which external-data files an ONNX names, straight from its protobuf bytes: running needs no onnx package.

Field numbers: onnx.proto (ModelProto 7 graph, 20 training_info, 25 functions; GraphProto 1 node, 5 initializer,
15 sparse_initializer; FunctionProto 7 node, 11 attribute_proto; NodeProto 5 attribute; AttributeProto 5 t, 6 g,
10 tensors, 11 graphs, 22 and 23 sparse; TensorProto 13 external_data; entry 1 key, 2 value).
"""

from __future__ import annotations

from collections.abc import Iterator

from dreamactor.errors import EngineError

# What kind of message lies in which field of which kind of message.
_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def external_files(content: bytes, name: str) -> set[str]:
    """Locations of external data, as the file spells them; raises EngineError if the bytes of `name` are no ONNX."""
    try:
        found = set(_locations(memoryview(content), "model", 0))
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise EngineError(f"{name} is not an ONNX model, or it is cut short ({error}).") from error
    return found


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > 40:
        raise ValueError("nested too deeply")
    if kind == "entry":
        pair = {field: bytes(value).decode() for field, value in _fields(message)}
        if pair.get(1) == "location":
            yield pair.get(2, "")
        return
    for field, value in _fields(message):
        child = _CHILDREN[kind].get(field)
        if child:
            yield from _locations(value, child, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Length-delimited fields of a protobuf message; numbers are stepped over."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key >> 32:  # protobuf reads the lower half of it
            raise ValueError("a field's number is too large")
        wire = key & 7
        if wire == 0:
            _, at = _varint(message, at)
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        elif wire == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a field runs past the end")
            yield key >> 3, message[at : at + size]
            at += size
        else:
            raise ValueError(f"unknown wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
