"""Operations and bytes that a network needs, counted from its ONNX graph at the sizes of a run.

ONNX Runtime's basic, semantics-preserving passes fix the free dimensions and fold what depends on them; the function
bodies of our own operators are inlined; then every shape is static and each node is counted once. A multiply-add is two
operations. Bytes are summed twice: what must move at least (inputs, weights and outputs of the whole network, once) and
what moves when only element-wise work is fused (inputs and outputs of each convolution, product and attention).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamactor.engines.session import Array
from dreamactor.errors import MissingDependency

Shapes = Mapping[str, tuple[tuple[int, ...], int]]  # name -> shape and bytes an element
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Shape", "Constant"}


@dataclass(frozen=True)
class Work:
    """Operations by kind, and bytes: `compulsory` is the least that must move, `moved` with no heavy node fused."""

    matmul: int = 0
    convolution: int = 0
    attention: int = 0
    elementwise: int = 0
    compulsory: int = 0
    moved: int = 0

    @property
    def operations(self) -> int:
        """What counts towards the fraction of peak: products, convolutions and attention, not element-wise work."""
        return self.matmul + self.convolution + self.attention

    @property
    def intensity(self) -> float:
        """Operations a byte moved."""
        return self.operations / max(self.moved, 1)

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "operations": self.operations, "intensity": self.intensity}


def count(model: Path, inputs: Mapping[str, Array], float_bytes: int = 4) -> Work:
    """The work of one run of `model` on inputs of these shapes.

    Its float32 tensors count as `float_bytes` bytes an element: 2 where the engine was built from it in a half type.
    Raises MissingDependency without `onnx` or `onnxruntime`, ValueError when a heavy node's shape stays unknown.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"Counting operations needs {error.name}: pip install 'dreamactor[export]'.") from error
    graph = _inferred(_static(model, inputs)).graph
    shapes = _shapes(graph, float_bytes)
    totals = dict.fromkeys(("matmul", "convolution", "attention", "elementwise", "moved"), 0)
    for node in graph.node:
        kind, operations = _operations(node, shapes)
        totals[kind] += operations
        if kind != "elementwise":
            names = {name for name in (*node.input, *node.output) if name in shapes}
            totals["moved"] += sum(_bytes(shapes, name) for name in names)
    weights = {value.name for value in graph.initializer}
    edges = [value.name for value in (*graph.input, *graph.output)]
    compulsory = sum(_bytes(shapes, name) for name in {*weights, *edges})
    return Work(**totals, compulsory=compulsory)


def _static(path: Path, inputs: Mapping[str, Array]) -> Any:
    """The model with these input shapes, functions inlined and everything that follows from the shapes folded."""
    import onnx
    import onnxruntime
    from onnx.inliner import inline_local_functions

    model = onnx.load(str(path))
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, inputs[value.name].shape, strict=True):
            dim.Clear()
            dim.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    model = inline_local_functions(model)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fixed.onnx", Path(folder) / "folded.onnx"
        onnx.save(model, str(source), save_as_external_data=model.ByteSize() > 2**30, location="weights")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        providers = ["CPUExecutionProvider"]  # a fusion that leaves its new tensors without shapes is left out
        onnxruntime.InferenceSession(str(source), options, providers, disabled_optimizers=["MatMulAddFusion"])
        return onnx.load(str(target))


def _inferred(model: Any) -> Any:
    """The model with every shape. onnx does not know ONNX Runtime's attention, so it goes from one to the next."""
    import onnx
    from onnx import helper

    while True:
        model = onnx.shape_inference.infer_shapes(model)
        known = _shapes(model.graph)
        attentions = [node for node in model.graph.node if node.op_type == "MultiHeadAttention"]
        ready = [node for node in attentions if node.output[0] not in known and set(node.input[:3]) <= set(known)]
        if not ready:
            return model
        for node in ready:
            q, v = known[node.input[0]][0], known[node.input[2]][0]
            found = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, [*q[:2], v[-1]])
            model.graph.value_info.append(found)


def _shapes(graph: Any, float_bytes: int = 4) -> dict[str, tuple[tuple[int, ...], int]]:
    from onnx import TensorProto, helper

    def width(kind: int) -> int:
        if kind == TensorProto.FLOAT:
            return float_bytes
        return int(np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize)

    found = {value.name: (tuple(value.dims), width(value.data_type)) for value in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[value.name] = (tuple(dim.dim_value for dim in tensor.shape.dim), width(tensor.elem_type))
    return found


def _bytes(shapes: Shapes, name: str) -> int:
    shape, width = shapes.get(name, ((0,), 0))
    return math.prod(shape) * width


def _operations(node: Any, shapes: Shapes) -> tuple[str, int]:
    """Kind and operations of one node."""
    kind = node.op_type
    if kind in ("MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "MatMulNBits"):
        out, left = _shape(node, node.output[0], shapes), _shape(node, node.input[0], shapes)
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return "matmul", 2 * math.prod(out) * (left[-2] if transposed else left[-1])
    if kind in ("Conv", "FusedConv", "ConvInteger", "ConvTranspose"):
        weight = _shape(node, node.input[1], shapes)
        each = _shape(node, node.input[0] if kind == "ConvTranspose" else node.output[0], shapes)
        return "convolution", 2 * math.prod(each) * math.prod(weight[1:])
    if kind in ("Attention", "MultiHeadAttention"):
        return "attention", _attention(node, shapes)
    if kind in VIEWS or not node.output or node.output[0] not in shapes:
        return "elementwise", 0
    return "elementwise", math.prod(shapes[node.output[0]][0])


def _attention(node: Any, shapes: Shapes) -> int:
    """Two products over every pair of query and key, of 4-D [B,H,N,D] or 3-D [B,N,H*D] inputs."""
    q, k, v = (_shape(node, name, shapes) for name in node.input[:3])
    keys = k[-2]
    values = v[-1] if len(v) == 3 else v[1] * v[-1]
    queries = q[-1] if len(q) == 3 else q[1] * q[-1]
    return 2 * q[0] * q[-2] * keys * (queries + values)


def _shape(node: Any, name: str, shapes: Shapes) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"the shape of '{name}' at {node.op_type} '{node.name}' does not follow from the inputs")
    return shapes[name][0]
