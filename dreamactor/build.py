"""From a checkpoint to an engine set: export, build, write the set. What `dreamactor build` runs."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from dreamactor import paths
from dreamactor.errors import InputError
from dreamactor.presets import preset as find_preset


def build_set(
    preset: str,
    precision: str = "fp32",
    target: str = "cpu",
    checkpoint: Path | None = None,
    output: Path | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Builds the engine set and returns its folder; one that is already there for the same weights is kept.

    Without `checkpoint` the one that ships with the preset is used, and random weights where none does, which is said.
    """
    from dreamactor.engines import read_manifest
    from dreamactor.errors import EngineError

    if (precision, target) != ("fp32", "cpu"):
        raise InputError(f"No builder for precision {precision} on {target} yet; fp32 on cpu is there.")
    folder = output or paths.engine_set(preset, precision, target)
    source = checkpoint or paths.checkpoint(preset)
    weights = weights_hash(source, preset)
    try:
        manifest = read_manifest(folder)
        if all(record.weights_sha256 == weights for record in manifest.networks.values()):
            log(f"{folder} is up to date.")
            return folder
    except EngineError:
        pass
    _export_set(preset, source, weights, folder, log)
    return folder


def weights_hash(checkpoint: Path | None, preset: str) -> str:
    """SHA-256 of a checkpoint's weights and the preset's sizes, or of the preset alone for random weights."""
    digest = hashlib.sha256(repr(find_preset(preset)).encode())
    if checkpoint is not None:
        digest.update((checkpoint / "model.safetensors").read_bytes())
    return digest.hexdigest()


def _export_set(preset: str, source: Path | None, weights: str, folder: Path, log: Callable[[str], None]) -> None:
    from dreamactor import networks
    from dreamactor.engines import EngineFiles, NetworkRecord, write_set
    from dreamactor.engines.onnxruntime import OnnxRuntimeSession, version
    from dreamactor.export.onnx import export_all

    sizes = find_preset(preset)
    if source is None:
        log(f"No checkpoint for '{preset}': its networks get random weights, so the video will show no person.")
        model = networks.build(sizes)
    else:
        model = networks.load(source, sizes)
    with tempfile.TemporaryDirectory() as scratch:
        files = export_all(model, Path(scratch), on_start=lambda name: log(f"exporting {name}"))
        engines = []
        for name, path in files.items():
            session = OnnxRuntimeSession(path, name)
            record = NetworkRecord(
                name=name, precision="fp32", runtime="onnxruntime", runtime_version=version(), architecture="any",
                files=(), inputs=session.inputs, outputs=session.outputs, weights_sha256=weights,
            )  # fmt: skip
            session.close()
            data = path.with_name(path.name + ".data")
            engines.append(EngineFiles(record, (path, data) if data.exists() else (path,)))
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_set(folder, sizes, "fp32", "cpu", engines)
    log(f"wrote {folder}")
