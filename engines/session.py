"""What every runtime offers the pipeline: named numpy arrays in, named numpy arrays out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of one input or output; -1 marks a dimension that may vary."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def accepts(self, array: Array) -> bool:
        """Whether dtype and shape fit."""
        return (
            array.dtype == np.dtype(self.dtype)
            and len(array.shape) == len(self.shape)
            and all(want in (-1, have) for want, have in zip(self.shape, array.shape, strict=True))
        )

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TensorSpec:
        return cls(str(values["name"]), str(values["dtype"]), tuple(int(size) for size in values["shape"]))

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join('?' if size < 0 else str(size) for size in self.shape)}]"


class Session(Protocol):
    """One loaded engine. `run` is not to be called from two threads at once on the same session."""

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name; raises InputError when an input is missing, unknown or of another dtype or shape."""
        ...

    def close(self) -> None:
        """Frees what the engine holds; a closed session cannot run."""
        ...


def check_inputs(network: str, specs: Iterable[TensorSpec], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """`inputs` as contiguous arrays in the order of `specs`; raises InputError naming what does not fit."""
    specs = tuple(specs)
    expected = [spec.name for spec in specs]
    if sorted(expected) != sorted(inputs):
        raise InputError(
            f"{network} takes {', '.join(expected)}; it was given {', '.join(sorted(inputs)) or 'nothing'}."
        )
    for spec in specs:
        array = inputs[spec.name]
        if not spec.accepts(array):
            raise InputError(f"{network} takes {spec}; it was given {array.dtype}{list(array.shape)}.")
    return {spec.name: np.ascontiguousarray(inputs[spec.name]) for spec in specs}
