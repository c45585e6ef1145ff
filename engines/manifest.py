"""The manifest of an engine set: what each file is, for which machine, and the hash it must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamactor.engines.session import TensorSpec
from dreamactor.errors import EngineError, InputError
from dreamactor.interfaces import MAX_REFERENCES, NETWORKS
from dreamactor.presets import Preset

FORMAT = 1
FILE_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.json.sig"
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class FileRecord:
    """One file of the set: its path inside the folder (POSIX), SHA-256 in hex, size in bytes."""

    path: str
    sha256: str
    bytes: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FileRecord:
        return cls(str(values["path"]), str(values["sha256"]), int(values["bytes"]))


@dataclass(frozen=True)
class NetworkRecord:
    """One engine. The first of `files` is what the runtime opens. The others are its external data, or for a TensorRT
    plan without weights the ONNX that has them, and then this one's external data.

    `architecture` is "any" for ONNX files ("vnni" where their 8-bit weights are signed, see `engines.processor`) and
    "sm89" or the like for TensorRT engines, "sm80+" for those that later architectures run too; `gpu` the one model of
    card that runs it, "" where the architecture is all that counts. `source_sha256` is the ONNX that the engine was
    built from, weights beside it included, `weights_sha256` the checkpoint; `notes` says in sentences what was kept in
    high precision and how it was built. `example` is the file with an input and what FP32 makes of it, which
    `dreamactor verify` reads and no session does.
    """

    name: str
    precision: str
    runtime: str
    runtime_version: str
    architecture: str
    files: tuple[FileRecord, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    source_sha256: str = ""
    weights_sha256: str = ""
    notes: tuple[str, ...] = ()
    gpu: str = ""
    example: FileRecord | None = None

    @property
    def all_files(self) -> tuple[FileRecord, ...]:
        """`files` and the example."""
        return (*self.files, *([self.example] if self.example else []))

    @property
    def is_stripped(self) -> bool:
        """Whether this is a plan without weights: only a session that puts them in can run it."""
        return self.runtime != "onnxruntime" and len(self.files) > 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "architecture": self.architecture,
            "gpu": self.gpu,
            "files": [asdict(file) for file in self.files],
            "example": asdict(self.example) if self.example else None,
            "inputs": [spec.to_dict() for spec in self.inputs],
            "outputs": [spec.to_dict() for spec in self.outputs],
            "source_sha256": self.source_sha256,
            "weights_sha256": self.weights_sha256,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> NetworkRecord:
        if not values["files"]:
            raise ValueError(f"{name} has no files")
        return cls(
            name=name,
            files=tuple(FileRecord.from_dict(file) for file in values["files"]),
            inputs=tuple(TensorSpec.from_dict(spec) for spec in values["inputs"]),
            outputs=tuple(TensorSpec.from_dict(spec) for spec in values["outputs"]),
            notes=tuple(str(note) for note in values.get("notes", ())),
            gpu=str(values.get("gpu", "")),
            example=FileRecord.from_dict(values["example"]) if values.get("example") else None,
            **{key: str(values[key]) for key in _TEXT_KEYS},
        )


_TEXT_KEYS = ("precision", "runtime", "runtime_version", "architecture", "source_sha256", "weights_sha256")


@dataclass(frozen=True)
class Manifest:
    """A whole set: `precision` and `target` as they were asked for, `created` in ISO 8601 UTC, `tool` what made it,
    `references` how many the denoiser takes at most."""

    preset: Preset
    precision: str
    target: str
    networks: Mapping[str, NetworkRecord] = field(default_factory=dict)
    created: str = ""
    tool: str = ""
    references: int = MAX_REFERENCES

    def network(self, name: str) -> NetworkRecord:
        """The record called `name`; raises EngineError listing what the set holds."""
        if name not in self.networks:
            raise EngineError(f"This engine set has no '{name}'; it holds {', '.join(self.networks) or 'nothing'}.")
        return self.networks[name]

    def require_whole(self) -> None:
        """Raises EngineError unless the set has every network of the pipeline."""
        for name in NETWORKS:
            self.network(name)

    def to_json(self) -> str:
        values = {
            "format": FORMAT,
            "preset": self.preset.to_dict(),
            "precision": self.precision,
            "target": self.target,
            "created": self.created,
            "tool": self.tool,
            "references": self.references,
            "networks": {name: record.to_dict() for name, record in self.networks.items()},
        }
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "the manifest") -> Manifest:
        """Raises EngineError when the text is not a manifest of this format."""
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise EngineError(
                    f"{where} has format {values['format']}; this version reads {FORMAT}: build the set again."
                )
            strangers = sorted(set(values["networks"]) - set(NETWORKS))
            if strangers:
                raise ValueError(f"no network is called {strangers[0][:80]!r}")
            return cls(
                preset=Preset.from_dict(values["preset"]),
                precision=str(values["precision"]),
                target=str(values["target"]),
                networks={name: NetworkRecord.from_dict(name, record) for name, record in values["networks"].items()},
                created=str(values.get("created", "")),
                tool=str(values.get("tool", "")),
                references=int(values.get("references", MAX_REFERENCES)),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, InputError) as error:
            raise EngineError(
                f"{where} is not an engine manifest ({type(error).__name__}: {error}): build the set again."
            ) from error


def read_bytes(directory: Path) -> bytes:
    """The manifest file of a set, unparsed; raises EngineError when there is none or it is absurdly large."""
    path = directory / FILE_NAME
    if not path.is_file():
        raise EngineError(f"{directory} is not an engine set: it has no {FILE_NAME}. 'make engines' builds one.")
    if path.stat().st_size > _MAX_BYTES:
        raise EngineError(f"{path} is {path.stat().st_size} bytes; a manifest has at most {_MAX_BYTES}.")
    return path.read_bytes()
