"""Triton model configurations as values, and their text form (config.pbtxt)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TYPES = {
    "bytes": "TYPE_STRING",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}


@dataclass(frozen=True)
class Port:
    """One input or output of a served model; `dtype` is a numpy name or "bytes", -1 a dimension that may vary."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    optional: bool = False

    def to_text(self) -> str:
        dims = ", ".join(str(size) for size in self.shape)
        optional = " optional: true" if self.optional else ""
        return f"{{ name: {json.dumps(self.name)} data_type: {TYPES[self.dtype]} dims: [ {dims} ]{optional} }}"


@dataclass(frozen=True)
class ModelConfig:
    """One model. `backend` "python", or "tensorrt" with the number of the engine's optimisation profiles, of which the
    first alone would be used if they were not named; one instance, on the first GPU, no batching."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    backend: str = "python"
    profiles: int = 0
    decoupled: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)

    def to_text(self) -> str:
        place = "kind: KIND_CPU"
        if self.backend == "tensorrt":
            profiles = ", ".join(f'"{index}"' for index in range(self.profiles))
            place = f"kind: KIND_GPU gpus: [ 0 ] profile: [ {profiles} ]"
        lines = [*_head(self), f'backend: "{self.backend}"', f"instance_group [ {{ {place} count: 1 }} ]"]
        for key, value in self.parameters.items():
            entry = f"{{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(value)} }} }}"
            lines.append(f"parameters {entry}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class EnsembleConfig:
    """Models chained by the names of their tensors, the same inside and out; decoupled when one of them is."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    models: Sequence[ModelConfig]

    @property
    def decoupled(self) -> bool:
        return any(model.decoupled for model in self.models)

    def to_text(self) -> str:
        steps = ",\n".join(_step(model) for model in self.models)
        lines = [*_head(self), 'platform: "ensemble"', "ensemble_scheduling {\n  step [", steps, "  ]\n}"]
        return "\n".join(lines) + "\n"


def _head(config: ModelConfig | EnsembleConfig) -> list[str]:
    lines = [f'name: "{config.name}"', "max_batch_size: 0"]
    for kind, ports in (("input", config.inputs), ("output", config.outputs)):
        lines.append(f"{kind} [\n  " + ",\n  ".join(port.to_text() for port in ports) + "\n]")
    if config.decoupled:
        lines.append("model_transaction_policy { decoupled: true }")
    return lines


def _step(model: ModelConfig) -> str:
    ports = [("input_map", port.name) for port in model.inputs] + [("output_map", port.name) for port in model.outputs]
    maps = "\n".join(f'    {kind} {{ key: "{name}" value: "{name}" }}' for kind, name in ports)
    return f'  {{\n    model_name: "{model.name}"\n    model_version: -1\n{maps}\n  }}'
