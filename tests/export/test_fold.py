"""Weights are folded into the form that operators read, and nothing else is touched."""

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dreamactor.export.fold import fold_weights


def _model() -> tuple[ir.Model, object]:
    """x -> Conv with a weight that is reshaped and transposed on the way, and a transpose of x itself."""
    weight = np.random.default_rng(0).standard_normal((4, 6, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["w", "shape"], ["w3"]),
        helper.make_node("Transpose", ["w3"], ["w_t"], perm=[0, 2, 1, 3]),
        helper.make_node("Conv", ["x", "w_t"], ["y"]),
        helper.make_node("Transpose", ["y"], ["z"], perm=[0, 1, 3, 2]),
    ]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([0, 3, 2, 1]), "shape")]
    edge = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None)  # noqa: E731
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 4])
    graph = helper.make_graph(nodes, "g", [x], [edge("z")], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.serde.deserialize_model(proto), proto


def test_folds_the_chain_and_keeps_the_function() -> None:
    model, before = _model()
    x = {"x": np.random.default_rng(1).standard_normal((1, 2, 5, 4)).astype(np.float32)}

    assert fold_weights(model) == 2

    assert [node.op_type for node in model.graph] == ["Conv", "Transpose"]
    assert {name: tuple(value.shape) for name, value in model.graph.initializers.items()} == {"w": (4, 2, 3, 1)}
    after = ReferenceEvaluator(ir.serde.serialize_model(model)).run(None, x)[0]
    np.testing.assert_array_equal(after, ReferenceEvaluator(before).run(None, x)[0])


def test_a_weight_that_is_turned_alike_for_two_products_is_one_weight_still() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["a"], perm=[1, 0]),
        helper.make_node("Transpose", ["w"], ["b"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "a"], ["y"]),
        helper.make_node("MatMul", ["x", "b"], ["z"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")]
    graph = helper.make_graph(nodes, "g", [x], outputs, [numpy_helper.from_array(weight, "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = ir.serde.deserialize_model(proto)
    assert fold_weights(model) == 2
    assert {name: tuple(value.shape) for name, value in model.graph.initializers.items()} == {"w": (4, 4)}

    nodes[1].attribute[0].ints[:] = [0, 1]  # one of them as it is: two weights
    del graph.node[:], graph.initializer[1:]
    graph.node.extend(nodes)
    model = ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    assert fold_weights(model) == 2
    found = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    assert found.keys() == {"a", "w"}
    np.testing.assert_array_equal(found["a"], weight.T)
    np.testing.assert_array_equal(found["w"], weight)


def test_sizes_of_zero_and_axes_are_read_as_onnx_has_them() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(1, 2, 1, 3)
    nodes = [
        helper.make_node("Squeeze", ["w", "axes"], ["s"]),
        helper.make_node("Reshape", ["s", "shape"], ["r"]),  # 0 is the size that is there
        helper.make_node("Mul", ["x", "r"], ["y"]),
    ]
    sizes = [numpy_helper.from_array(np.array(value), name) for name, value in (("axes", [0]), ("shape", [0, 0, 3]))]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w"), *sizes])
    model = ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    assert fold_weights(model) == 2
    (folded,) = (value.const_value for value in model.graph.initializers.values())
    assert folded is not None
    np.testing.assert_array_equal(folded.numpy(), weight[0])
