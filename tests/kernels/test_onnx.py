"""The attention nodes: exported once with dynamic sizes, their bodies run by ONNX Runtime at other sizes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from dreamactor import kernels
from dreamactor.kernels import onnx as kernels_onnx
from dreamactor.kernels import reference

HEADS, SIZE, GROUP, WINDOW = 2, 16, 4, 1
SCALE = SIZE**-0.5


class Attentions(nn.Module):
    """Both attentions over a latent grid, as the transformer calls them."""

    def forward(self, latent: Tensor, reference_latent: Tensor, motion: Tensor) -> Tensor:
        frames = latent.shape[2]

        def heads(tensor: Tensor) -> Tensor:
            return tensor.unflatten(-1, (HEADS, SIZE)).transpose(1, 2)

        x = latent.flatten(2).transpose(1, 2)  # [B,F*P,C]
        known = reference_latent.flatten(3).permute(0, 1, 3, 2).flatten(1, 2)  # [B,R*P,C]
        face = motion.flatten(1, 2)  # [B,F*G,C]
        x = x + kernels.two_segment_attention(heads(x), heads(x), heads(x * 0.5), heads(known), heads(known), SCALE)
        return x + kernels.face_attention(heads(x), heads(face), heads(face), frames, WINDOW, SCALE)


def inputs(frames: int, height: int, width: int, references: int, batch: int = 2) -> tuple[Tensor, ...]:
    channels = HEADS * SIZE
    return (
        torch.randn(batch, channels, frames, height, width),
        torch.randn(batch, references, channels, height, width),
        torch.randn(batch, frames, GROUP, channels),
    )


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(0)
    frames, height, width = Dim("frames", min=1), Dim("height", min=1), Dim("width", min=1)
    shapes = (
        {2: frames, 3: height, 4: width},
        {1: Dim("references", min=0), 3: height, 4: width},
        {1: frames},
    )
    program = torch.onnx.export(
        Attentions().eval(), inputs(3, 4, 5, 2), dynamo=True, opset_version=23, dynamic_shapes=shapes, verbose=False
    )
    assert program is not None
    kernels_onnx.attach_functions(program)
    buffer = io.BytesIO()
    onnx.save(program.model_proto, buffer)
    return onnx.load_from_string(buffer.getvalue())


def test_graph_holds_one_node_for_each_attention(model: onnx.ModelProto) -> None:
    nodes = {node.op_type: node for node in model.graph.node if node.domain == "dreamactor"}
    assert sorted(nodes) == ["FaceAttention", "FlashAttention"]
    for node in nodes.values():
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["plugin_namespace"] == b"dreamactor"
        assert attributes["plugin_version"] == b"1"
        assert attributes["aot"] == 1
        assert attributes["scale"] == pytest.approx(SCALE)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(
    ("frames", "height", "width", "references"), [(3, 4, 5, 2), (1, 1, 1, 0), (5, 2, 7, 1), (7, 3, 3, 3)]
)
def test_bodies_agree_with_torch_at_other_sizes(
    model: onnx.ModelProto, frames: int, height: int, width: int, references: int
) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tensors = inputs(frames, height, width, references)
    names = [value.name for value in session.get_inputs()]
    result = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})[0]
    np.testing.assert_allclose(result, Attentions()(*tensors).numpy(), atol=2e-6)


def test_old_opset_is_refused(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return kernels.two_segment_attention(q, q, q, q, q, SCALE)

    program = torch.onnx.export(
        Model().eval(), (torch.randn(1, 2, 3, SIZE),), dynamo=True, opset_version=20, verbose=False
    )
    assert program is not None
    with pytest.raises(ValueError, match="opset_version=23"):
        kernels_onnx.attach_functions(program)


def test_reference_face_attention_equals_a_masked_one() -> None:
    frames, tokens = 5, 6
    q = torch.randn(2, HEADS, frames * tokens, SIZE)
    k, v = torch.randn(2, 2, HEADS, frames * GROUP, SIZE).unbind()
    query_frame = torch.arange(frames).repeat_interleave(tokens)
    key_frame = torch.arange(frames).repeat_interleave(GROUP)
    for window in (0, 1, 2, 9):
        mask = (query_frame[:, None] - key_frame).abs() <= window
        expected = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=SCALE)
        got = reference.face_attention(q, k, v, frames, window, SCALE)
        torch.testing.assert_close(got, expected.transpose(1, 2).flatten(2))


class Quantised(nn.Module):
    """FP8 attention over two segments of any length."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor) -> Tensor:
        return kernels.fp8_attention(q, k, v, k_reference, v_reference, SCALE)


def test_fp8_bodies_agree_with_the_reference_at_other_sizes() -> None:
    def tensors(queries: int, keys: int, references: int) -> tuple[Tensor, ...]:
        return tuple(torch.randn(1, 2, n, SIZE) for n in (queries, keys, keys, references, references))

    queries, keys, references = Dim("queries", min=1), Dim("keys", min=1), Dim("references", min=0)
    shapes = ({2: queries}, {2: keys}, {2: keys}, {2: references}, {2: references})
    program = torch.onnx.export(
        Quantised().eval(), tensors(20, 150, 40), dynamo=True, opset_version=23, dynamic_shapes=shapes, verbose=False
    )
    assert program is not None
    kernels_onnx.attach_functions(program)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for sizes in ((20, 150, 40), (1, 300, 0), (129, 7, 1)):
        inputs = tensors(*sizes)
        names = [value.name for value in session.get_inputs()]
        result = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})[0]
        expected = reference.fp8_attention(*inputs, SCALE)
        error = float((torch.from_numpy(result) - expected).norm() / expected.norm())
        assert error < 0.03  # the reference rounds the probabilities too
