"""Where an engine's time goes: ONNX Runtime's profile of every node, folded into parts of the network.

The exporter names nodes after the module they came from (metadata of the ONNX file); ONNX Runtime keeps these names
through its passes or, where it fuses or inserts nodes, gives the operator. The two together tell the part.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamactor.engines.session import Array

Scopes = Mapping[str, str]  # node name -> module it was exported from
PARTS = (
    "attention", "face attention", "projections", "feed-forward", "convolution", "norm and modulation", "rotary",
    "embedding", "element-wise", "layout",
)  # fmt: skip
_ATTENTION = {"Attention", "MultiHeadAttention", "GroupQueryAttention", "Softmax", "FlashAttention", "FaceAttention"}
_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
_CONVOLUTIONS = {"Conv", "FusedConv", "ConvInteger", "ConvTranspose", "NhwcFusedConv"}
_NORMS = {
    "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "ReduceL2",
    "LpNormalization", "ReduceMean", "ReduceSum",
}  # fmt: skip
_LAYOUT = {
    "Transpose", "Reshape", "Concat", "Slice", "Split", "Gather", "Expand", "ReorderInput", "ReorderOutput", "Cast",
    "Squeeze", "Unsqueeze", "Identity", "Pad", "DepthToSpace", "SpaceToDepth", "Resize", "Tile", "ScatterND",
    "DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip


@dataclass(frozen=True)
class NodeTime:
    """Seconds of one node in one run."""

    name: str
    operator: str
    part: str
    seconds: float


@dataclass(frozen=True)
class Profile:
    """Seconds of each node in a run; `session_seconds` is the run as its runtime saw it, nodes and scheduling."""

    nodes: tuple[NodeTime, ...]
    session_seconds: float

    def by_part(self) -> dict[str, float]:
        """Seconds of each part in a run, largest first; `scheduling` is what lies between the nodes."""
        totals = _sum((node.part, node.seconds) for node in self.nodes)
        between = self.session_seconds - sum(totals.values())
        return {**totals, "scheduling": between} if between > 0 else totals

    def by_operator(self) -> dict[str, float]:
        return _sum((node.operator, node.seconds) for node in self.nodes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.session_seconds,
            "parts": self.by_part(),
            "operators": self.by_operator(),
            "slowest": [
                {"name": node.name, "operator": node.operator, "part": node.part, "seconds": node.seconds}
                for node in sorted(self.nodes, key=lambda node: -node.seconds)[:12]
            ],
        }


def profile(model: Path, options: Callable[[], Any], inputs: Mapping[str, Array], runs: int = 9) -> Profile:
    """The median of `runs` runs of `model` with ONNX Runtime's profiler on. `options` makes fresh SessionOptions as
    the engine uses them."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        chosen = options()
        chosen.enable_profiling = True
        chosen.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(model), chosen, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text())
    return fold(events, {name: scope for name, (_, scope) in graph_nodes(model).items()}, runs)


def fold(events: Sequence[Mapping[str, Any]], scopes: Scopes, runs: int) -> Profile:
    """The median of the last `runs` runs in ONNX Runtime's trace events (microseconds): a mean would spread one slow
    run's time over the parts."""
    last = sorted((event for event in events if event["name"] == "model_run"), key=lambda event: event["ts"])[-runs:]
    chosen = sorted(last, key=lambda event: event["dur"])[(len(last) - 1) // 2]
    start, end = chosen["ts"], chosen["ts"] + chosen["dur"]
    sums: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time") or not start <= event["ts"] < end:
            continue
        key = (event["name"].removesuffix("_kernel_time"), str(event["args"]["op_name"]))
        sums[key] = sums.get(key, 0.0) + event["dur"] / 1e6
    nodes = tuple(
        NodeTime(name, operator, part_of(operator, _scope(name, scopes)), seconds)
        for (name, operator), seconds in sums.items()
    )
    return Profile(nodes, chosen["dur"] / 1e6)


def graph_nodes(model: Path) -> dict[str, tuple[str, str]]:
    """Node name -> its operator and a dot and the path of the module it was exported from, as far as the file says;
    {} without `onnx`."""
    try:
        import onnx

        from dreamactor.export.onnxgraph import module_of
    except ImportError:
        return {}
    loaded = onnx.load(str(model), load_external_data=False)
    return {node.name: (node.op_type, f".{module_of(node)}") for node in loaded.graph.node}


def part_of(operator: str, scope: str) -> str:
    """The part of the network that an operator in module `scope` belongs to, one of PARTS."""
    if operator in _ATTENTION:
        return "face attention" if ".face" in scope else "attention"
    if operator in _CONVOLUTIONS:
        return "convolution"
    if operator in _PRODUCTS:
        if ".ffn" in scope:
            return "feed-forward"
        return "projections" if ".attention" in scope or ".face" in scope else "embedding"
    if "RotaryEmbedding" in operator:
        return "rotary"
    if operator in _NORMS:
        return "norm and modulation"
    if operator in _LAYOUT:
        return "layout"
    return "feed-forward" if ".ffn" in scope else "element-wise"


def _scope(name: str, scopes: Scopes) -> str:
    """The scope of a node, or of the longest node name that ONNX Runtime made this one from."""
    if name in scopes:
        return scopes[name]
    parents = [known for known in scopes if known and known in name]
    return scopes[max(parents, key=len)] if parents else ""


def _sum(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for key, seconds in pairs:
        totals[key] = totals.get(key, 0.0) + seconds
    return dict(sorted(totals.items(), key=lambda pair: -pair[1]))
