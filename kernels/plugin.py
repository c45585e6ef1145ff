"""The kernels as TensorRT plugins, compiled ahead of time: an engine that holds one runs without Python.

`register` defines them in the module given (`tensorrt`); the ONNX nodes of `kernels.onnx` name them. Each tile of the
table that TensorRT can launch is a tactic; the builder times them on the GPU and keeps the winner. Tensors are
contiguous; a kernel's arguments are the inputs, int32 scalars made from their shapes, and the outputs.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from dreamactor.kernels import sources
from dreamactor.kernels.aot import Compiled, Source, compile_kernel, plugin_ptx
from dreamactor.kernels.dispatch import FP8_SINCE
from dreamactor.kernels.onnx_body import DOMAIN
from dreamactor.kernels.reference import FP8_BLOCK
from dreamactor.kernels.tiles import Tile, table_key, tiles

_QUANTIZE = Tile(FP8_BLOCK, 0, 8, 1)
_TO = {10: "FP16", 16: "BF16"}  # ONNX element types
_DATA_TYPES: dict[str, Callable[[ModuleType], Any]] = {
    "FP16": lambda trt: trt.DataType.HALF, "BF16": lambda trt: trt.DataType.BF16,
    "FP32": lambda trt: trt.DataType.FLOAT, "FP8": lambda trt: trt.DataType.FP8,
}  # fmt: skip
Shapes = list[Any]  # one symbolic shape for each input


@dataclass(frozen=True, eq=False)
class Plugin:
    """One plugin.

    `types` has TensorRT's type of each input and output, "half" where all that say so agree on FP16 or BF16. The
    functions take the inputs' symbolic shapes: `outputs` gives symbolic output shapes with their types, `scalars` the
    kernel's int32 arguments, `grid` the launch; `source` takes (tile, head size, element type, attributes, arch).
    `fixed` names sizes, by (input, axis), that the kernel is compiled for besides the head size.
    """

    name: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, type]
    types: tuple[str, ...]
    kernel: str | None
    outputs: Callable[[Any, Shapes], list[tuple[Any, ...]]]
    scalars: Callable[[Shapes], tuple[Any, ...]]
    grid: Callable[[Any, Shapes, Tile], tuple[Any, ...]]
    source: Callable[[Tile, int, str, Mapping[str, Any], int], Source]
    fixed: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{DOMAIN}::{self.name}"

    def tiles(self, arch: int, size: int) -> tuple[Tile, ...]:
        """The tactics for compute capability `arch`, in order; tactic numbers are positions from 1."""
        table = table_key(arch)
        if table is None or ("FP8" in self.types and arch < FP8_SINCE):
            return ()
        if self.kernel is None:
            return (_QUANTIZE,)
        return tuple(tile for tile in tiles(self.kernel, table, size) if not tile.specialized)


def _merged(q: Any) -> tuple[Any, ...]:
    return q[0], q[2], q[1] * q[3]


def _quantized(transpose: bool, trtp: Any, shapes: Shapes) -> list[tuple[Any, ...]]:
    batch, heads, tokens, size = shapes[0]
    blocks = trtp.cdiv(tokens, FP8_BLOCK)
    out = (batch, heads, size, blocks * FP8_BLOCK) if transpose else (batch, heads, tokens, size)
    return [out, (batch, heads, blocks)]


def _quantize(transpose: bool, tile: Tile, size: int, dtype: str, given: Mapping[str, Any], arch: int) -> Source:
    return sources.quantize(transpose, size, dtype)


def _query_grid(trtp: Any, shapes: Shapes, tile: Tile) -> tuple[Any, ...]:
    return trtp.cdiv(shapes[0][2], tile.block_m), shapes[0][0] * shapes[0][1], 1


def _lengths(shapes: Shapes) -> tuple[Any, ...]:
    """heads, tokens, key tokens, reference tokens of (q, k, v, k_reference, v_reference, ...)."""
    return shapes[0][1], shapes[0][2], shapes[1][2], shapes[3][2]


_SEGMENTS = ("q", "k", "v", "k_reference", "v_reference")
PLUGINS = (
    Plugin(
        "FlashAttention", _SEGMENTS, {"scale": float}, ("half",) * 6, "two_segment",
        outputs=lambda trtp, shapes: [_merged(shapes[0])],
        scalars=_lengths,
        grid=_query_grid,
        source=lambda tile, size, dtype, given, arch: sources.flash_attention(tile, size, dtype, given["scale"]),
    ),
    Plugin(
        "FaceAttention", ("q", "k", "v"), {"window": int, "scale": float}, ("half",) * 4, "face_attention",
        outputs=lambda trtp, shapes: [(shapes[0][0], shapes[0][2] * shapes[0][3], shapes[0][1] * shapes[0][4])],
        scalars=lambda shapes: (shapes[0][1], shapes[0][2], shapes[0][3], shapes[1][3]),
        grid=lambda trtp, shapes, tile: (
            trtp.cdiv(shapes[0][3], tile.block_m), shapes[0][2], shapes[0][0] * shapes[0][1]
        ),
        source=lambda tile, size, dtype, given, arch: sources.face_attention(
            tile, size, dtype, given["window"], given["group"], given["scale"]
        ),
        fixed={"group": (1, 3)},
    ),
    Plugin(
        "FlashAttentionFP8", (*_SEGMENTS, *(f"{name}_scale" for name in _SEGMENTS)), {"scale": float, "to": int},
        ("FP8",) * 5 + ("FP32",) * 5 + ("half",), "fp8_attention",
        outputs=lambda trtp, shapes: [_merged(shapes[0])],
        scalars=_lengths,
        grid=_query_grid,
        source=lambda tile, size, dtype, given, arch: sources.fp8_attention(tile, size, dtype, given["scale"], arch),
    ),
    *(
        Plugin(
            name, ("x", "offset"), {}, ("half", "FP32", "FP8", "FP32"), None,
            outputs=functools.partial(_quantized, transpose),
            scalars=lambda shapes: (shapes[0][2],),
            grid=lambda trtp, shapes, tile: (  # a launch of no blocks at all is refused
                trtp.max(trtp.cdiv(shapes[0][2], FP8_BLOCK), 1), shapes[0][0] * shapes[0][1], 1
            ),
            source=functools.partial(_quantize, transpose),
        )
        for name, transpose in (("QuantizeBlocks", False), ("QuantizeValues", True))
    ),
)  # fmt: skip


def register(trt: ModuleType, arch: int, lazy: bool = False) -> tuple[str, ...]:
    """Define every plugin in `trt.plugin` for a GPU of compute capability `arch` (86 for 8.6); returns their names.

    The tiles are those of the table that the GPU shares, the code is compiled for the GPU itself. Call it once before
    parsing a network that has the nodes. `lazy` defers the registry (it needs TensorRT's libraries) to first use.
    """
    trtp = importlib.import_module(f"{trt.__name__}.plugin")
    registry = importlib.import_module(f"{trt.__name__}.plugin._lib").QDP_REGISTRY
    for plugin in PLUGINS:
        if plugin.id not in registry:
            _define(trt, trtp, plugin, arch, lazy)
    return tuple(plugin.name for plugin in PLUGINS)


def _define(trt: ModuleType, trtp: Any, plugin: Plugin, arch: int, lazy: bool) -> None:
    """TensorRT reads the arguments' names, order and types from each function's signature, so that is made to fit."""
    desc = trtp.TensorDesc
    arguments = [(name, desc) for name in plugin.inputs] + list(plugin.attributes.items())
    count = len(plugin.types) - len(plugin.inputs)
    outputs = ("outputs", tuple[(desc,) * count])  # type: ignore[misc]
    returned = desc if count == 1 else outputs[1]

    def describe(*values: Any, **named: Any) -> Any:  # here TensorRT gives the attributes by name, below by position
        inputs, given = _split(plugin, values)
        given |= named
        names = [_half(trt, inputs, given) if name == "half" else name for name in plugin.types[len(plugin.inputs) :]]
        shapes = plugin.outputs(trtp, [tensor.shape_expr for tensor in inputs])
        found = tuple(
            trtp.from_shape_expr(shape, _DATA_TYPES[name](trt)) for shape, name in zip(shapes, names, strict=True)
        )
        return found[0] if len(found) == 1 else found

    def tune(*values: Any) -> Any:
        inputs, given = _split(plugin, values[:-1])
        either = _TO[given["to"]] if "to" in given else "FP16|BF16"
        types = [either if name == "half" else name for name in plugin.types]
        tactics = _tactics(plugin, arch, inputs[0].shape[-1])
        return [trtp.AutoTuneCombination(", ".join(types), "LINEAR", tactics)]

    def implement(*values: Any) -> Any:
        *rest, _, tactic = values
        inputs, given = _split(plugin, rest)
        given |= {name: inputs[i].shape[axis] for name, (i, axis) in plugin.fixed.items()}
        size = inputs[0].shape[-1]
        tile = plugin.tiles(arch, size)[tactic - 1]
        half = _half(trt, inputs, given).lower()
        compiled = _compiled(plugin, arch, size, tile, half, tuple(sorted(given.items())))
        shapes = [tensor.shape_expr for tensor in inputs]
        launch = trtp.KernelLaunchParams(*plugin.grid(trtp, shapes, tile))
        launch.block_x, launch.shared_mem = 32 * compiled.num_warps, compiled.shared
        scalars = trtp.SymIntExprs.from_tuple([trtp.SymInt32(value) for value in plugin.scalars(shapes)])
        return compiled.name, plugin_ptx(compiled), launch, scalars

    trtp.register(plugin.id, lazy_register=lazy)(_signed(describe, arguments, returned))
    trtp.autotune(plugin.id)(_signed(tune, [*arguments, outputs], list[trtp.AutoTuneCombination]))
    kernel = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]
    trtp.aot_impl(plugin.id)(_signed(implement, [*arguments, outputs, ("tactic", int)], kernel))


def _signed(function: Callable[..., Any], arguments: list[tuple[str, Any]], returned: Any) -> Callable[..., Any]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in arguments]
    function.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    return function


def _split(plugin: Plugin, values: Any) -> tuple[Any, dict[str, Any]]:
    """(inputs, attributes by name). Attributes are told apart by type: their order is the node's, not the plugin's."""
    count = len(plugin.inputs)
    by_type = {type(value): value for value in values[count:]}
    return values[:count], {name: by_type[kind] for name, kind in plugin.attributes.items() if kind in by_type}


def _half(trt: ModuleType, inputs: Any, given: Mapping[str, Any]) -> str:
    """FP16 or BF16: the attribute `to` where there is one, else the type of the first input."""
    if "to" in given:
        return _TO[given["to"]]
    found = {trt.DataType.HALF: "FP16", trt.DataType.BF16: "BF16"}
    if inputs[0].dtype not in found:
        raise ValueError(f"The plugins run in FP16 or BF16, not {inputs[0].dtype}: convert the graph before the build.")
    return found[inputs[0].dtype]


def _tactics(plugin: Plugin, arch: int, size: int) -> list[int]:
    """Tactic numbers; ValueError where there is none."""
    count = len(plugin.tiles(arch, size))
    if not count:
        raise ValueError(f"{plugin.id} has no tile for sm_{arch} and head size {size}.")
    return list(range(1, count + 1))


@functools.cache
def _compiled(
    plugin: Plugin, arch: int, size: int, tile: Tile, half: str, given: tuple[tuple[str, Any], ...]
) -> Compiled:
    return compile_kernel(plugin.source(tile, size, half, dict(given), arch), arch)
