"""Cuts from a .tflite network what only leads to outputs that nobody reads: LiteRT would compute it in every frame."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

OUTPUTS, OPERATORS = 8, 10  # fields of a subgraph's table (tensorflow/lite/schema/schema.fbs)


def keep_outputs(network: bytes, wanted: Collection[int]) -> bytes:
    """The network with its outputs of the indices `wanted` alone, in their order, and without the operators that these
    do not need.

    The file's own vectors are shortened in place, which takes milliseconds; what is left is bit for bit what it was.
    """
    from ai_edge_litert.schema_py_generated import Model

    content = bytearray(network)
    graph = Model.GetRootAsModel(content, 0).Subgraphs(0)
    outputs = _length_and_items(content, graph, OUTPUTS)
    _shorten(outputs, [index in wanted for index in range(len(outputs) - 1)])
    needed = {int(tensor) for tensor in outputs[1 : 1 + outputs[0]]}
    kept = []
    for index in reversed(range(graph.OperatorsLength())):
        operator = graph.Operators(index)
        kept.append(not needed.isdisjoint(operator.OutputsAsNumpy().tolist()))
        if kept[-1]:
            needed.update(operator.InputsAsNumpy().tolist())
    _shorten(_length_and_items(content, graph, OPERATORS), kept[::-1], relative=True)
    return bytes(content)


def _length_and_items(content: bytearray, graph: object, field: int) -> NDArray[np.uint32]:
    """A vector of the subgraph as it lies in the file: its length, then its items."""
    table = graph._tab  # type: ignore[attr-defined]  # the generated reader has no other way to a vector's place
    start = table.Vector(table.Offset(field))
    return np.frombuffer(content, np.uint32, 1 + table.VectorLen(table.Offset(field)), start - 4)


def _shorten(vector: NDArray[np.uint32], kept: list[bool], relative: bool = False) -> None:
    """Leaves the kept items in `vector`; `relative` ones say how many bytes after themselves they point."""
    places = np.flatnonzero(kept)
    items = vector[1:][places]
    if relative:
        items = items + (4 * (places - np.arange(len(places)))).astype(np.uint32)
    vector[0] = len(items)
    vector[1 : 1 + len(items)] = items
