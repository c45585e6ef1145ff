"""The pipeline's Session over a model of the server: called from inside it, or over gRPC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from dreamactor.engines import NetworkRecord
from dreamactor.engines.session import Array, check_inputs


class RemoteNetwork(ABC):
    """A served network, described by its record in the manifest; a subclass knows how to call it."""

    def __init__(self, record: NetworkRecord) -> None:
        self.name, self.inputs, self.outputs = record.name, record.inputs, record.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.call(check_inputs(self.name, self.inputs, inputs))

    @abstractmethod
    def call(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """The network's outputs by name for inputs that fit."""

    def close(self) -> None:  # noqa: B027
        """Nothing: the server holds the model."""
