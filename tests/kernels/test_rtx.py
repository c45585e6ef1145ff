"""The nodes' bodies in TensorRT-RTX, which builds without a GPU: inlined, and fused to its own attention."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.export import Dim

from dreamactor.kernels import onnx as kernels_onnx
from tests.kernels import test_onnx

MODULE = next((name for name in ("tensorrt_rtx", "tensorrt_rtx_bindings") if importlib.util.find_spec(name)), None)

# In a process of its own: a node it cannot parse ends the process.
PROGRAM = """
import importlib, sys
trt = importlib.import_module(sys.argv[1])
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file(sys.argv[2]), [parser.get_error(i).desc() for i in range(parser.num_errors)]
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
profile = builder.create_optimization_profile()
latent, reference, motion = (network.get_input(i) for i in range(3))
sizes = [dict(f=f, s=s, r=r) for f, s, r in ((2, 8, 1), (5, 16, 2), (7, 32, 3))]
profile.set_shape(latent.name, *[(2, 128, n["f"], n["s"], n["s"]) for n in sizes])
profile.set_shape(reference.name, *[(2, n["r"], 128, n["s"], n["s"]) for n in sizes])
profile.set_shape(motion.name, *[(2, n["f"], 4, 128) for n in sizes])
config.add_optimization_profile(profile)
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
engine = builder.build_serialized_network(network, config)
assert engine is not None
open(sys.argv[3], "wb").write(bytes(engine))
"""


@pytest.mark.slow
@pytest.mark.skipif(MODULE is None, reason="TensorRT-RTX is not installed")
def test_both_attentions_are_fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_onnx, "SIZE", 64)
    monkeypatch.setattr(test_onnx, "SCALE", 0.125)
    frames, height, width = Dim("frames", min=1), Dim("height", min=1), Dim("width", min=1)
    shapes = (
        {2: frames, 3: height, 4: width}, {1: Dim("references", min=0), 3: height, 4: width}, {1: frames},
    )  # fmt: skip
    inputs = tuple(tensor.half() for tensor in test_onnx.inputs(3, 4, 5, 2))
    program = torch.onnx.export(
        test_onnx.Attentions().eval(), inputs, dynamo=True, opset_version=23, dynamic_shapes=shapes, verbose=False
    )
    assert program is not None
    kernels_onnx.attach_functions(program)
    program.save(str(tmp_path / "model.onnx"))
    engine = tmp_path / "engine"
    command = [sys.executable, "-c", PROGRAM, str(MODULE), str(tmp_path / "model.onnx"), str(engine)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    built = engine.read_bytes()
    for name in (b"FlashAttention", b"FaceAttention"):  # the layer that each fused kernel came from
        named = [match.start() for match in re.finditer(rb"\(" + name + rb"\)", built)]
        assert any(b"_gemm_mha" in built[max(0, at - 4000) : at] for at in named), name
