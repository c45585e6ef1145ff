"""Where a TensorRT engine's time goes: its layer times (IProfiler) folded into parts with what its inspector says.

The inspector's JSON lists layers with a `Name`, a `LayerType` and `Metadata`: the ONNX nodes that a layer was fused
from, `[ONNX Layer: node_MatMul_206]`, separated by control characters. A node inside one of our functions reads
`[ONNX Layer: node_of_t1 | node__symbolic (FlashAttention)]`. Engines have all this because they are built with
`ProfilingVerbosity.DETAILED`; https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-tools.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dreamactor import paths
from dreamactor.benchmark.profiles import NodeTime, Profile, Scopes, graph_nodes, part_of
from dreamactor.engines.manifest import NetworkRecord
from dreamactor.engines.runtimes import load_tensorrt
from dreamactor.engines.session import Array
from dreamactor.engines.tensorrt import TensorRTSession
from dreamactor.engines.trust import read_file, sha256
from dreamactor.errors import EngineError

# A layer fused from nodes of several parts counts for the first of these: what such a fusion is made for.
_RANK = (
    "attention", "face attention", "convolution", "feed-forward", "projections", "embedding", "rotary",
    "norm and modulation", "element-wise", "layout",
)  # fmt: skip
# Substrings of a layer's type, in lower case, for layers that name no node.
_TYPES = {
    "attention": "attention", "mha": "attention", "conv": "convolution", "gemm": "embedding", "matrix": "embedding",
    "norm": "norm and modulation", "reduce": "norm and modulation", "softmax": "attention", "element": "element-wise",
    "pointwise": "element-wise", "unary": "element-wise", "activation": "element-wise", "kgen": "element-wise",
}  # fmt: skip
RUNS = 5
_NODE = re.compile(r"\[ONNX Layer: ([^\]|]*?)(?: \| ([^\]|]*?) \((\w+)\))?\]")


def profile_engine(folder: Path, record: NetworkRecord, inputs: Mapping[str, Array], model: Path | None) -> Profile:
    """The mean of a few runs of a set's TensorRT engine, by part; `model` is the ONNX it was built from, if known.

    Without it the nodes' modules are unknown, and products count as embedding. Needs the GPU the engine is for.
    """
    if record.is_stripped:
        raise EngineError(f"{record.name} is a plan without weights: profile a set built without --strip.")
    session = _ProfiledSession(read_file(folder, record.files[0]), record.name, record.runtime)
    try:
        for _ in range(2):
            session.run(inputs)
        session.seconds.clear()
        for _ in range(RUNS):
            session.run(inputs)
        return fold_layers(session.layers(), session.seconds, RUNS, graph_nodes(model) if model else {})
    finally:
        session.close()


def source_model(folder: Path, record: NetworkRecord) -> Path | None:
    """The ONNX a network of the set in `folder` was built from, as it was exported, where the store beside the set or
    the default one still has it."""
    candidates = [
        path
        for shelf in dict.fromkeys((folder.parent, paths.ENGINES))
        for path in sorted(shelf.glob(f"store/onnx/*/{record.name}.onnx"))
    ]
    return next((path for path in candidates if _onnx_hash(path) == record.source_sha256), None)


def _onnx_hash(path: Path) -> str:
    """Of an ONNX and the weights beside it."""
    return sha256(*(file for file in (path, path.with_name(f"{path.name}.data")) if file.exists()))


def fold_layers(
    information: str, seconds: Mapping[str, float], runs: int, nodes: Mapping[str, tuple[str, str]]
) -> Profile:
    """Layer times, summed over `runs`, in parts of the network.

    `information` is the inspector's JSON, `nodes` the ONNX graph's: name -> (operator, scope). The run's own time is
    the sum of its layers'; what lies between them is not known.
    """
    known = {layer["Name"]: layer for layer in json.loads(information)["Layers"] if isinstance(layer, dict)}
    scopes: Scopes = {name: scope for name, (_, scope) in nodes.items()}
    times = []
    for name, total in seconds.items():
        layer = known.get(name, {})
        kind = str(layer.get("LayerType", "unknown"))
        part = _heaviest(_parts(str(layer.get("Metadata", "")), nodes, scopes)) or _by_type(kind)
        times.append(NodeTime(name, kind, part, total / runs))
    return Profile(tuple(times), sum(time.seconds for time in times))


def _parts(metadata: str, nodes: Mapping[str, tuple[str, str]], scopes: Scopes) -> Iterator[str]:
    """The part of every ONNX node that a layer's metadata names."""
    for inner, outer, function in _NODE.findall(metadata):
        if function:
            scope = ".face" if function == "FaceAttention" else nodes.get(outer, ("", ""))[1]
            yield part_of("Attention" if "Attention" in function else function, scope)
        else:
            operator, scope = nodes.get(inner, (_operator(inner), scopes.get(inner, "")))
            yield part_of(operator, scope)


def _operator(name: str) -> str:
    """`MatMul` of `node_MatMul_206`: all that the exporter's names say where the graph itself is missing."""
    words = name.split("_")
    return words[1] if len(words) > 1 else name


def _heaviest(parts: Iterable[str]) -> str | None:
    return min(parts, key=_RANK.index, default=None)


def _by_type(kind: str) -> str:
    return next((part for word, part in _TYPES.items() if word in kind.lower()), "layout")


class _ProfiledSession(TensorRTSession):
    """A session whose context reports every layer's time, added up in `seconds`."""

    def __init__(self, plan: bytes, name: str, runtime: str) -> None:
        super().__init__(plan, name, runtime)
        self.seconds: dict[str, float] = {}
        self._trt = load_tensorrt(runtime)
        self._context.profiler = _recorder(self._trt, self.seconds)

    def layers(self) -> str:
        """The inspector's JSON of the engine at the shapes of the last run."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))


def _recorder(trt: ModuleType, seconds: dict[str, float]) -> Any:
    class Recorder(trt.IProfiler):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            seconds[layer_name] = seconds.get(layer_name, 0.0) + ms / 1e3

    return Recorder()
