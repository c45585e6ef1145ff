"""One network into the recipe's precision, measured against FP32 and repaired until it passes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamactor.export.recipe import Recipe

if TYPE_CHECKING:
    from onnx import ModelProto

    from dreamactor.production.stages import Stages

MAX_LAYERS_REPORTED = 400


def lower_network(stages: Stages, network: str, put_back: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Writes `folder/<network>.onnx` and returns its facts: SNR whole and per layer, what was put back, sizes."""
    from dreamactor.export.quality import apply, expand_wide_attention, keep_high, run_model, worst
    from dreamactor.export.weights import load, save

    prepared, ranges, feed = stages.ingredients(network)
    recipe = stages.keys.recipe
    reference = run_model(prepared, feed) if recipe.name != "fp32" else {}
    restored, path = list(put_back), folder / f"{network}.onnx"

    def attempt() -> tuple[Any, float]:
        chosen = keep_high(recipe, restored)
        source = expand_wide_attention(prepared, chosen, stages.keys.attention_types)
        save(apply(source, chosen, ranges), path)
        low = load(path)
        return low, (worst(reference, run_model(low, feed)) if reference else float("inf"))

    low, decibels = attempt()
    before = {"snr_before_repair_db": _finite(decibels), "bytes_before_repair": _bytes(folder)}
    if put_back:  # for the video's sake: it was made without that first
        before = {name: stages.precision(network).facts[name] for name in before}
    step = 1
    while decibels < recipe.snr_gate and reference:
        waiting = [module for module in stages.sensitivity(network) if module not in restored]
        if not waiting:
            break
        restored += waiting[:step]
        step *= 2
        low, decibels = attempt()
    final = keep_high(recipe, restored)
    return {
        "snr_db": _finite(decibels), **before, "put_back": restored,
        "passed": decibels >= recipe.snr_gate or not reference, "bytes": _bytes(folder),
        "fused_type": fused_type(prepared, final),
        **_layers(prepared, low, final, ranges, feed),
    }  # fmt: skip


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _layers(
    prepared: ModelProto, low: ModelProto, recipe: Recipe, ranges: Mapping[str, float], feed: Mapping[str, Any]
) -> dict[str, Any]:
    """Signal-to-noise layer by layer, and for a quantised network what was left as it is; nothing for FP32."""
    from dreamactor.export.quality import chosen_layers, layer_quality, lowered_nodes
    from dreamactor.export.quantize import layers

    facts: dict[str, Any] = {}
    modules: dict[str, str] = {}
    if recipe.quantized:
        wanted, chosen = layers(prepared, recipe), chosen_layers(prepared, recipe, ranges)
        left = sorted({layer.module for layer in wanted} - {layer.module for layer in chosen})
        facts = {"quantized_layers": len(chosen), "left_high": left}
        modules = {layer.node: layer.module for layer in chosen}
    modules = modules or lowered_nodes(prepared, recipe)
    if not modules:
        return facts
    quality = layer_quality(prepared, low, list(modules)[:MAX_LAYERS_REPORTED], feed)
    found = {f"{modules[node]} ({node})": _finite(value) for node, value in quality.items()}
    return {**facts, "layer_snr_db": found, "layers_unmeasured": len(modules) - len(found)}


def _finite(decibels: float) -> float | None:
    """JSON has no infinity: None for an output that is not finite or not compared."""
    return round(decibels, 2) if abs(decibels) < 1e6 else None


def attention_nodes(path: Path) -> tuple[str, ...]:
    """The kinds of the attention nodes that a plugin could take, one for each node."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    kinds = ("FlashAttention", "FaceAttention")
    return tuple(node.op_type for node in model.graph.node if node.op_type in kinds)


def expected_layers(path: Path, plugin: bool) -> dict[str, int]:
    """The least numbers of layers that parsing must yield: attention as attention or plugin, and every Q and DQ."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    operators = [node.op_type for node in model.graph.node]
    ours = len(attention_nodes(path))
    counts = {"PLUGIN_V3": ours} if plugin else {"ATTENTION_INPUT": ours + operators.count("Attention")}
    counts |= {
        "QUANTIZE": operators.count("QuantizeLinear"),
        "DEQUANTIZE": operators.count("DequantizeLinear"),
    }
    return {kind: count for kind, count in counts.items() if count}


def fused_type(prepared: ModelProto, recipe: Recipe) -> str:
    """The type in which a network of this recipe, as it is after repairs, must have fused attention; "" for none."""
    from dreamactor.export.attention import SCORES
    from dreamactor.export.onnxgraph import ATTENTION
    from dreamactor.export.quality import lowered_nodes
    from dreamactor.export.quantize import layers

    if any(layer.weight is None for layer in layers(prepared, recipe)):
        return recipe.quantized
    lowered = lowered_nodes(prepared, recipe)
    attention = (node for node in prepared.graph.node if node.op_type in ATTENTION or node.name.endswith(f".{SCORES}"))
    return recipe.high if any(node.name in lowered for node in attention) else ""
