"""Writes the Triton model repository of an engine set: the ensemble, its three steps, and every network by itself.

`config.pbtxt` of a TensorRT set is for a GPU host (TensorRT backend, NVIDIA's container), `configs/cpu.pbtxt` for
everywhere else (python backend on the set's own sessions); `--model-config-name=cpu` chooses the second. All else has
the same configuration for both.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

from dreamactor.engines import NetworkRecord, TensorSpec, read_manifest, trust
from dreamactor.engines.shapes import profiles
from dreamactor.errors import EngineError, InputError, guarded
from dreamactor.motion.limits import Limits
from dreamactor.presets import Preset
from dreamactor.serving.pbtxt import EnsembleConfig, ModelConfig, Port
from dreamactor.serving.wire import DENOISED, ENSEMBLE, PREPARED, REQUEST, RESPONSE

MODELS = Path(__file__).resolve().parent / "models"
_PLAN = "model.plan"


def write_repository(
    engines: Path, repository: Path, limits: Limits | None = None, public_key: bytes | None = None
) -> Path:
    """Makes `repository` (a new folder) from the set in `engines` and returns it.

    Raises EngineError when the set is unusable. Engines are checked against the manifest, and TensorRT's linked in:
    where Triton's own backend opens them (`config.pbtxt`) that is the only time, so the set's folder must be nobody
    else's to write. With `public_key` the models, too, open only what its owner has signed.
    """
    manifest = read_manifest(engines, public_key)
    manifest.require_whole()
    parameters = {"engines": str(engines.absolute())}
    if public_key is not None:
        parameters["public_key"] = public_key.hex()
    caps = (limits or Limits()).for_references(manifest.references)
    steps = stages({**parameters, "limits": json.dumps(dataclasses.asdict(caps))})
    for step in steps:
        _write_model(repository, step, step.name)
    for record in manifest.networks.values():
        _write_network(repository, engines, manifest.preset, record, parameters)
    ensemble = EnsembleConfig(ENSEMBLE, REQUEST, RESPONSE, steps)
    (_version(repository, ENSEMBLE) / "README").write_text("An ensemble has no file of its own.\n")
    (repository / ENSEMBLE / "config.pbtxt").write_text(ensemble.to_text())
    return repository


def stages(parameters: dict[str, str]) -> tuple[ModelConfig, ...]:
    """The ensemble's steps, in order."""
    return (
        ModelConfig("prepare", REQUEST, PREPARED, decoupled=True, parameters=parameters),
        ModelConfig("denoise", PREPARED, DENOISED, decoupled=True, parameters=parameters),
        ModelConfig("finish", DENOISED, RESPONSE, parameters=parameters),
    )


def _write_network(
    repository: Path, engines: Path, preset: Preset, record: NetworkRecord, parameters: dict[str, str]
) -> None:
    if record.is_stripped:
        raise EngineError(
            f"{record.name} is a plan without weights, which Triton's TensorRT backend cannot fill: build the set "
            "without --strip to serve it."
        )
    here = ModelConfig(record.name, _ports(record.inputs), _ports(record.outputs), parameters=parameters)
    backend = here
    for file in record.files:
        trust.check_file(engines, file)
    if record.runtime == "tensorrt":
        _link(engines / record.files[0].path, _version(repository, record.name) / _PLAN)
        backend = dataclasses.replace(here, backend="tensorrt", profiles=len(profiles(preset, record.name)))
    _write_model(repository, backend, "network")
    cpu = repository / record.name / "configs" / "cpu.pbtxt"
    cpu.parent.mkdir()
    cpu.write_text(here.to_text())


def _write_model(repository: Path, config: ModelConfig, module: str) -> None:
    shutil.copyfile(MODELS / f"{module}.py", _version(repository, config.name) / "model.py")
    (repository / config.name / "config.pbtxt").write_text(config.to_text())


def _version(repository: Path, model: str) -> Path:
    folder = repository / model / "1"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _ports(specs: tuple[TensorSpec, ...]) -> tuple[Port, ...]:
    return tuple(Port(spec.name, spec.dtype, spec.shape) for spec in specs)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dreamactor.serving.repository",
        description="Writes the Triton model repository of an engine set.",
    )
    parser.add_argument("engines", type=Path, help="engine set; the server must see it at the same path")
    parser.add_argument("repository", type=Path, help="new folder")
    parser.add_argument("--public-key", type=Path, help="Ed25519 key that must have signed the engine set")
    options = parser.parse_args()
    return guarded(lambda: _write_new(options.engines, options.repository, options.public_key), "repository")


def _write_new(engines: Path, repository: Path, public_key: Path | None) -> None:
    if repository.exists():
        raise InputError(f"{repository} exists already; give a new folder.")
    try:
        print(write_repository(engines, repository, public_key=public_key.read_bytes() if public_key else None))
    except BaseException:
        shutil.rmtree(repository, ignore_errors=True)
        raise


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


if __name__ == "__main__":
    sys.exit(main())
