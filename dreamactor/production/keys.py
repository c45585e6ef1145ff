"""What each thing in the store is made from. Keys name the keys of what they build on, so they are known in advance.

Computed from small files and installed versions alone: nothing heavy is imported on the way to a hit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dreamactor import paths
from dreamactor.checkpoints import WEIGHTS
from dreamactor.engines.processor import has_vnni
from dreamactor.engines.trust import sha256
from dreamactor.errors import InputError
from dreamactor.export.recipe import Recipe
from dreamactor.export.recipes import recipe
from dreamactor.files import make_folder, write_whole
from dreamactor.presets import Preset
from dreamactor.production.request import Request
from dreamactor.production.sources import origin

Key = dict[str, Any]

_EXPORT = (
    "dreamactor/interfaces.py", "dreamactor/presets.py", "dreamactor/networks/*.py", "kernels/onnx*.py",
    "kernels/operators.py", "kernels/reference.py", "export/graphs.py", "export/onnx.py", "export/fold.py",
    "export/simplify.py", "export/weights.py",
)  # fmt: skip
_LOWER = (
    "export/attention.py", "export/onnxgraph.py", "export/precision.py", "export/quantize.py", "export/quality.py",
    "export/calibrate.py", "export/dynamic.py", "export/weights.py", "export/recipe.py", "dreamactor/fidelity.py",
    "dreamactor/production/lowering.py", "dreamactor/production/stages.py",
)  # fmt: skip
_BUILD = (
    "dreamactor/interfaces.py", "engines/attention.py", "engines/build_worker.py", "engines/builder.py",
    "engines/shapes.py",
    "dreamactor/production/engine_build.py",
)  # fmt: skip
_PLUGIN = ("kernels/*.py", "kernels/tiles.json", "engines/cuda.py", "engines/tensorrt.py")  # and what it is timed in
_REWRITE = ("engines/graph.py", "engines/onnxruntime_attention.py", "engines/onnxruntime_graph.py")
_CAPTURE = (
    "dreamactor/production/capture.py", "dreamactor/production/rehearsal.py", "dreamactor/production/sources.py",
    "dreamactor/production/stages.py", "dreamactor/pipeline/*.py", "dreamactor/motion/*.py",
    "training/characters/*.py", "training/assets.json",
)  # fmt: skip
_JUDGE = (
    "dreamactor/interfaces.py", "dreamactor/production/example.py", "dreamactor/production/gate.py",
    "dreamactor/production/make.py", "dreamactor/production/measure.py", "dreamactor/production/video_quality.py",
    "dreamactor/fidelity.py", "engines/cuda.py", "engines/denormals.py", "engines/onnxruntime.py",
    "engines/runtimes.py", "engines/session.py", "engines/set_writing.py", "engines/sets.py", "engines/tensorrt.py",
    "engines/trust.py", "engines/verify.py",
)  # fmt: skip

# TensorRT has fused kernels for 16 bits alone and refuses what it cannot fuse; TensorRT-RTX 1.7 crashes on other types.
_ATTENTION_TYPES = {
    "onnxruntime": ("fp32", "fp16", "bf16"), "tensorrt": ("fp16", "bf16"), "tensorrt_rtx": ("fp16",),
}  # fmt: skip


class Keys:
    """Keys of every stage of one request."""

    def __init__(self, request: Request) -> None:
        self.request = request
        target = request.target
        form = target.architecture if target.runtime == "tensorrt_rtx" else target.name  # "rtx" is this card's own
        found = recipe(request.precision, form)
        self.recipe: Recipe = replace(found, unsigned=found.unsigned and not has_vnni())

    @cached_property
    def weights(self) -> str:
        return weights_key(self.request.preset, self.request.checkpoint, self.request.store)

    @cached_property
    def code(self) -> dict[str, str]:
        groups = {
            "export": _EXPORT,
            "lower": _LOWER,
            "rewrite": _REWRITE,
            "build": _BUILD,
            "plugin": _PLUGIN,
            "capture": _CAPTURE,
            "judge": _JUDGE,
        }
        return {name: _source_hash(patterns) for name, patterns in groups.items()}

    def onnx(self, network: str) -> Key:
        return {
            "network": network, "weights": self.weights, "code": self.code["export"], "torch": _version("torch"),
            "onnx": _version("onnx"), "onnxscript": _version("onnxscript"),
        }  # fmt: skip

    def samples(self) -> Key:
        return {
            "weights": self.weights, "code": [self.code["export"], self.code["capture"]],
            "count": self.request.samples, "frames": self.request.preset.segment_frames, "source": origin(),
        }  # fmt: skip

    @property
    def rewrites(self) -> bool:
        """Whether the graph is first rewritten for ONNX Runtime: not where a precision is only tried out on the CPU."""
        return self.request.target.name == "cpu" and (self.recipe.name == "fp32" or self.recipe.dynamic)

    def source(self, network: str) -> Key:
        if not self.rewrites:
            return {}
        return {"network": network, "onnx": digest(self.onnx(network)), "code": self.code["rewrite"]}

    @property
    def attention_types(self) -> tuple[str, ...]:
        """The types in which the target takes ONNX's `Attention`; in others it is written out for it."""
        if self.recipe.quantized:
            return _ATTENTION_TYPES["onnxruntime"]
        return _ATTENTION_TYPES[self.request.target.runtime]

    @property
    def records(self) -> bool:
        """Whether inputs are recorded: to calibrate on, or to compare with FP32 in ONNX Runtime."""
        return self.recipe.name != "fp32" or self.request.target.name != "cpu"

    def ranges(self, network: str) -> Key:
        return {
            "network": network, "onnx": digest(self.onnx(network)),
            "samples": digest(self.samples()) if self.records else "", "recipe": asdict(self.recipe),
            "code": self.code["lower"], "modelopt": _version("nvidia-modelopt"),
            "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"),
        }  # fmt: skip

    def precision(self, network: str, put_back: tuple[str, ...] = ()) -> Key:
        return {
            **self.ranges(network), "source": self.source(network), "attention": list(self.attention_types),
            "put_back": list(put_back),
        }  # fmt: skip

    def sensitivity(self, network: str) -> Key:
        return {**self.ranges(network), "source": self.source(network), "what": "sensitivity"}

    def engine(self, network: str, precision: Mapping[str, Any], runtime_version: str) -> Key:
        request = self.request
        plugins = request.target.runtime == "tensorrt"  # which alone has them
        return {
            "network": network, "weights": self.weights, "precision": digest(precision),
            "shapes": [asdict(profile) for profile in request.profiles(network)], "target": request.target.architecture,
            "runtime": request.target.runtime, "version": runtime_version, "options": asdict(request.build),
            "gpu": request.target.gpu, "code": self.code["build"],
            "plugin": [self.code["plugin"], _version("triton", "triton-windows")] if plugins else [],
        }  # fmt: skip

    def video(self, networks: Mapping[str, Mapping[str, Any]]) -> Key:
        """`networks` are the keys of their ONNX, in whichever precision."""
        parts = {name: digest(key) for name, key in sorted(networks.items())}
        return {"networks": parts, "samples": digest(self.samples()), "code": self.code["capture"]}


def weights_key(preset: Preset, checkpoint: Path | None, store: Path = paths.STORE) -> str:
    """SHA-256 of the checkpoint's weights and its preset, or of the preset alone for random weights. The store
    remembers that of a large file."""
    found = hashlib.sha256(json.dumps(preset.to_dict(), sort_keys=True).encode())
    if checkpoint is not None:
        found.update(_file_hash(checkpoint / WEIGHTS, store).encode())
    return found.hexdigest()


def digest(key: Mapping[str, Any]) -> str:
    """One word for a key, to name it in another."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _version(*packages: str) -> str:
    """The installed version of the first of `packages` that is; "" where none is."""
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            return version(package)
    return ""


def _source_hash(patterns: tuple[str, ...]) -> str:
    total = hashlib.sha256()
    for pattern in patterns:
        for path in paths.shipped(pattern):
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _file_hash(path: Path, store: Path) -> str:
    """SHA-256 of a large file, remembered by its path, size and time of change."""
    found = path.stat()
    mark = f"{path.resolve()}:{found.st_size}:{found.st_mtime_ns}"
    memory = store / "hashes.json"
    try:
        known: dict[str, str] = dict(json.loads(memory.read_text()))
    except (OSError, ValueError, TypeError):
        known = {}
    if mark not in known:
        known[mark] = sha256(path)
        with contextlib.suppress(InputError):  # a memory that cannot be kept costs a second, not the build
            make_folder(memory.parent)
            write_whole(memory, json.dumps(known).encode())
    return known[mark]
