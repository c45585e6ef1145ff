"""The stages between a checkpoint and engines. Each is an entry of the store: made once, found ever after."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamactor.engines.runtimes import runtime_version
from dreamactor.engines.store import Entry, Store
from dreamactor.errors import EngineError
from dreamactor.production.keys import Key, Keys
from dreamactor.production.rehearsal import rehearsal
from dreamactor.production.request import Request

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from dreamactor.engines.session import Session
    from dreamactor.export.calibrate import Samples
    from dreamactor.motion.prepare import MotionInputs
    from dreamactor.pipeline.options import Options

OnProgress = Callable[[str, int, int], None]
"""What is being done, how far, of how much (0 where that is not known)."""

# The clips whose inputs are recorded, by seed: photos, segments, steps more than the preset's, guidance (None: its).
CALIBRATED = ((1, 1, 0, None), (2, 1, 1, 2.0), (3, 2, 2, 1.0))
JUDGED = len(CALIBRATED)  # the seed of the clip on which the video is judged: none of those, and two segments long


class _Store(Store):
    """One that does not find what is to be tried again."""

    def find(self, kind: str, key: Mapping[str, Any]) -> Entry | None:
        entry = super().find(kind, key)
        return None if entry is not None and entry.facts.get("retry") else entry

    def tried(self, kind: str, key: Mapping[str, Any]) -> Mapping[str, Any]:
        """The facts of what is to be tried again, where there is such."""
        entry = super().find(kind, key)
        return entry.facts if entry is not None else {}


class Stages:
    """Makes or finds every stage of one request."""

    def __init__(self, request: Request, on_progress: OnProgress) -> None:
        self.request, self.on_progress = request, on_progress
        self.keys = Keys(request)
        self.store = _Store(request.store)
        self.rehearsal = rehearsal(request.preset)

    def onnx(self, network: str) -> Entry:
        """The FP32 ONNX."""

        def make(folder: Path) -> Mapping[str, Any]:
            from dreamactor.export.onnx import export_network

            export_network(self.request.preset, self._weights, network, folder / f"{network}.onnx")
            return {}

        return self._get("onnx", self.keys.onnx(network), f"exporting {network}", make)

    def samples(self) -> Entry:
        """Inputs of every network, from animating clips with the FP32 networks."""

        def make(folder: Path) -> Mapping[str, Any]:
            from dreamactor.export.calibrate import save_samples
            from dreamactor.production.capture import record
            from dreamactor.production.sources import clips, origin

            preset, takes = self.rehearsal, []
            for seed, (photos, segments, more, guidance) in enumerate(CALIBRATED):
                frames = segments * (preset.segment_frames - 1) + 1
                options = replace(_options(), steps=preset.steps + more, guidance_scale=guidance)
                takes += [(clip, options) for clip in clips(preset, [seed], frames, photos)]
            with ExitStack() as opened:
                sessions = self.open({name: self.onnx(name) for name in self.request.networks}, opened)
                found = record(sessions, preset, takes, self.request.samples)
            hashes = {name: save_samples(folder, name, feeds).sha256 for name, feeds in found.items()}
            return {"source": origin(), "clips": len(takes), "sha256": hashes}

        return self._get("samples", self.keys.samples(), "recording calibration inputs", make)

    def ranges(self, network: str) -> Entry:
        """Activation ranges of the layers that the recipe quantises."""

        def make(folder: Path) -> Mapping[str, Any]:
            from dreamactor.export.attention import inline
            from dreamactor.export.calibrate import activation_ranges
            from dreamactor.export.quantize import layers, prepare
            from dreamactor.export.weights import load

            recipe = self.keys.recipe
            prepared = prepare(load(self.onnx(network).paths[0]), recipe)
            model, nodes = inline(prepared), [layer.node for layer in layers(prepared, recipe)]
            found: dict[str, float] = {}
            method = recipe.ranges
            if nodes:
                seen = self.feeds(network).calibration
                found, method = activation_ranges(model, nodes, seen, recipe.quantized, recipe.ranges)
            (folder / "ranges.json").write_text(json.dumps(found, indent=1))
            return {"tensors": len(found), "method": method}

        return self._get("ranges", self.keys.ranges(network), f"calibrating {network}", make)

    def sensitivity(self, network: str) -> list[str]:
        """Modules by how much they cost, the most harmful first."""

        def make(folder: Path) -> Mapping[str, Any]:
            from dreamactor.export.quality import sensitivities

            prepared, ranges, feed = self.ingredients(network)

            def hear(done: int, total: int) -> None:
                self.on_progress(f"measuring {network}, module by module", done, total)

            found = sensitivities(prepared, self.keys.recipe, ranges, feed, hear)
            decibels = {item.module: round(item.decibels, 2) for item in found}
            (folder / "sensitivity.json").write_text(json.dumps(decibels, indent=1))
            return {"modules": len(found)}

        entry = self._get("sensitivity", self.keys.sensitivity(network), f"measuring {network}", make)
        return list(json.loads(entry.paths[0].read_text()))

    def precision(self, network: str, put_back: tuple[str, ...] = ()) -> Entry:
        """The ONNX in the recipe's precision, repaired until its output passes; what was put back is in the facts."""

        def make(folder: Path) -> Mapping[str, Any]:
            from dreamactor.production.lowering import lower_network

            return lower_network(self, network, put_back, folder)

        return self._get(
            "precision", self.keys.precision(network, put_back), f"{self.keys.recipe.name} {network}", make
        )

    def engine(self, network: str, precision: Entry) -> Entry:
        """The TensorRT engine of `precision` for the target. What fails twice for one reason is not tried again."""
        key = self.engine_key(network, precision.key)

        def make(folder: Path) -> Mapping[str, Any]:
            from dreamactor.production.engine_build import build_fastest

            before = self.store.tried("engine", key)
            facts = build_fastest(self, network, precision.paths[0], precision.facts["fused_type"], folder)
            return {**facts, "retry": facts["retry"] and facts["no_plugin"] != before.get("no_plugin")}

        return self._get("engine", key, f"building {network} for {self.request.target.name}", make)

    def source(self, network: str) -> Entry:
        """The FP32 ONNX that is lowered: as ONNX Runtime runs it fastest where it is to run on this CPU."""
        plain = self.onnx(network)
        if not self.keys.rewrites:
            return plain

        def make(folder: Path) -> Mapping[str, Any]:
            from dreamactor.engines.onnxruntime_graph import optimize

            return {"rewrites": optimize(plain.paths[0], folder / plain.paths[0].name)}

        return self._get("source", self.keys.source(network), f"rewriting {network} for ONNX Runtime", make)

    def engine_key(self, network: str, precision: Mapping[str, Any]) -> Key:
        return self.keys.engine(network, precision, runtime_version(self.request.target.runtime))

    def video(self, networks: Mapping[str, Entry], label: str) -> np.ndarray:
        """The frames that these networks make of a clip kept for this, with the seed that is always the same."""

        def make(folder: Path) -> Mapping[str, Any]:
            from safetensors.numpy import save

            from dreamactor.production.capture import animate

            with ExitStack() as opened:
                sessions = self.open(networks, opened)
                frames = animate(sessions, self.rehearsal, self._judged, _options())
            (folder / "frames.safetensors").write_bytes(save({"frames": frames}))
            return {"shape": list(frames.shape)}

        key = self.keys.video({name: entry.key for name, entry in networks.items()})
        entry = self._get("video", key, f"video with {label}", make)
        from safetensors.numpy import load_file

        return load_file(entry.paths[0])["frames"]

    def feeds(self, network: str) -> Samples:
        from dreamactor.export.calibrate import load_samples

        return load_samples(self.samples().folder, network)

    def ingredients(self, network: str) -> tuple[Any, dict[str, float], dict[str, np.ndarray]]:
        """The prepared FP32 model, activation ranges and one recorded input that these were not taken from (none for
        FP32): what lowering works on."""
        from dreamactor.export.quantize import prepare
        from dreamactor.export.weights import load

        prepared = prepare(load(self.source(network).paths[0]), self.keys.recipe)
        ranges = json.loads(self.ranges(network).paths[0].read_text()) if self.keys.recipe.calibrated else {}
        feed = {} if self.keys.recipe.name == "fp32" else self.feeds(network).held_out
        return prepared, ranges, feed

    def open(self, entries: Mapping[str, Entry], opened: ExitStack) -> dict[str, Session]:
        """CPU sessions of ONNX entries, closed with `opened`."""
        sessions: dict[str, Session] = {}
        for name, entry in entries.items():
            sessions[name] = open_onnx(entry.paths[0], name)
            opened.callback(sessions[name].close)
        return sessions

    @cached_property
    def _judged(self) -> MotionInputs:
        from dreamactor.production.sources import clips

        (clip,) = clips(self.rehearsal, [JUDGED], 2 * self.rehearsal.segment_frames - 1)
        return clip

    def release(self) -> None:
        """Lets go of the weights: random ones are in memory."""
        self.__dict__.pop("_weights", None)

    @cached_property
    def _weights(self) -> Mapping[str, Tensor]:
        """Those of the checkpoint, which stay on disk, or random ones."""
        from dreamactor.networks import StoredWeights, build

        preset, checkpoint = self.request.preset, self.request.checkpoint
        return build(preset).state_dict() if checkpoint is None else StoredWeights(checkpoint, preset)

    def _get(self, kind: str, key: Key, label: str, make: Callable[[Path], Mapping[str, Any]]) -> Entry:
        def announced(folder: Path) -> Mapping[str, Any]:
            self.on_progress(label, 0, 0)
            return make(folder)

        return self.store.get(kind, key, announced)[0]


def open_onnx(path: Path, name: str) -> Session:
    """A CPU session of an ONNX of any precision; BF16 is simulated, and large weights stay on disk."""
    from dreamactor.export.precision import simulated
    from dreamactor.export.weights import load

    try:
        return _session(load(path), name)
    except EngineError:
        return _session(simulated(load(path)), name)


def _session(model: ModelProto, name: str) -> Session:
    from dreamactor.engines.onnxruntime import OnnxRuntimeSession, session_options
    from dreamactor.export.weights import map_weights, serialize

    options, (content, beside) = session_options(), serialize(model)
    if beside:
        map_weights(options, beside)
    return OnnxRuntimeSession(content, name, options=options)


def _options() -> Options:
    from dreamactor.pipeline.options import Options
    from dreamactor.production.capture import SEED

    return Options(seed=SEED)
