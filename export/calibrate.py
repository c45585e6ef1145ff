"""Activation ranges from real activations: samples on disk with a hash, ranges by nvidia-modelopt, both reused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, helper
from safetensors import numpy as safetensors

from dreamactor.errors import EngineError, MissingDependency
from dreamactor.export.onnxgraph import constants
from dreamactor.export.quality import run_model
from dreamactor.export.weights import array, is_large, load, save

Feed = dict[str, np.ndarray]
Ranges = dict[str, float]


@dataclass(frozen=True)
class Samples:
    """Inputs of one network, one safetensors file each, in the order they were captured."""

    network: str
    paths: tuple[Path, ...]

    def feeds(self) -> Iterator[Feed]:
        """The samples, one at a time."""
        for path in self.paths:
            yield dict(safetensors.load_file(path))

    @property
    def calibration(self) -> Samples:
        """All but the last, or the only one."""
        return Samples(self.network, self.paths[:-1] or self.paths)

    @property
    def held_out(self) -> Feed:
        """The last, which calibration does not see where there are others."""
        return dict(safetensors.load_file(self.paths[-1]))

    @property
    def sha256(self) -> str:
        """Hash over all of them, in order."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def save_samples(folder: Path, network: str, feeds: Iterable[Mapping[str, np.ndarray]]) -> Samples:
    """Writes samples to `folder/<network>.000.safetensors` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{network}.*.safetensors"):
        old.unlink()
    for index, feed in enumerate(feeds):
        content = safetensors.save({key: np.ascontiguousarray(value) for key, value in feed.items()})
        (folder / f"{network}.{index:03d}.safetensors").write_bytes(content)  # a full disk is then an OSError
    return load_samples(folder, network)


def load_samples(folder: Path, network: str) -> Samples:
    """Samples written before; raises EngineError when there are none."""
    paths = tuple(sorted(folder.glob(f"{network}.*.safetensors")))
    if not paths:
        raise EngineError(
            f"There are no calibration samples of {network} in {folder}: delete that folder and build again, "
            "which records them."
        )
    return Samples(network, paths)


def activation_ranges(
    model: ModelProto, nodes: Iterable[str], samples: Samples, form: str, method: str
) -> tuple[Ranges, str]:
    """Largest magnitude to represent of every activation that goes into `nodes`, by tensor name; the method used.

    `form` is "fp8" or "int8", `method` "max" or "entropy" (the threshold that loses least information to INT8).
    `model` holds standard operators only. Layers that nvidia-modelopt knows TensorRT to run no faster in 8 bits are
    left out. Its import takes more than ten seconds. It works on copies of the weights, more than nine of 2.6 GB, so
    models whose weights lie beside them take `largest_magnitudes`, which is "max", instead.
    """
    if is_large(model):
        return largest_magnitudes(model, nodes, samples), "max"
    quantize = _modelopt()
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "model.onnx", Path(folder) / "ranges.onnx"
        save(model, source)
        quiet(
            quantize,
            str(source),
            quantize_mode=form,
            calibration_data_reader=_Reader(samples),
            calibration_method=method,
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            nodes_to_quantize=list(nodes),
            output_path=str(result),
            log_level="CRITICAL",
        )
        return _ranges(load(result), _LARGEST[form]), method


def largest_magnitudes(model: ModelProto, nodes: Iterable[str], samples: Samples) -> Ranges:
    """The largest magnitude that goes into `nodes` by tensor name, in ONNX Runtime with the weights left on disk."""
    stored, chosen = constants(model), set(nodes)
    inputs = {name for node in model.graph.node if node.name in chosen for name in node.input if name}
    names = sorted(name for name in inputs if name not in stored)
    measured = ModelProto()
    measured.CopyFrom(model)
    for name in names:
        measured.graph.node.append(helper.make_node("Abs", [name], [f"{name}.magnitude"]))
        measured.graph.node.append(
            helper.make_node("ReduceMax", [f"{name}.magnitude"], [f"{name}.largest"], keepdims=0)
        )
    found = dict.fromkeys(names, 0.0)
    for feed in samples.feeds():
        outputs = run_model(measured, feed, [f"{name}.largest" for name in names])
        found = {name: max(found[name], float(outputs[f"{name}.largest"])) for name in names}
    return found


def quiet(function: Callable[..., None], *arguments: Any, **options: Any) -> None:
    """Calls a quantiser without its prints, progress bars and log; its exceptions still come through."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            function(*arguments, **options)
    finally:
        logging.disable(level)


def _modelopt() -> Callable[..., None]:
    try:
        from modelopt.onnx.quantization import quantize
    except ImportError as error:
        raise MissingDependency(
            f"FP8 and static INT8 need nvidia-modelopt ({error}): pip install 'dreamactor[quantise]'."
        ) from error
    return quantize  # type: ignore[no-any-return]


class _Reader:
    """What onnxruntime's calibrators read from: `get_next` until None."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.rewind()

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)

    def get_first(self) -> Feed:
        return next(self._samples.feeds())

    def rewind(self) -> None:
        self._feeds = self._samples.feeds()


# The magnitude that modelopt 0.47's scales map the range's end to. For FP8 it multiplies INT8 scales by 448/127 where
# the inverse is meant, which would leave all but the lowest tenth of FP8's range unused; only the range is taken here.
_LARGEST = {"int8": 127.0, "fp8": 127.0 * 127.0 / 448.0}


def _ranges(model: ModelProto, largest: float) -> Ranges:
    stored = constants(model)
    return {
        node.input[0]: float(array(stored[node.input[1]])) * largest
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in stored and node.input[1] in stored
    }
