"""Every TensorRT name that the builder and the sessions use, against the real bindings of both TensorRTs.

TensorRT's own need stub libraries (`tests.kernels.tensorrt_bindings`); TensorRT-RTX's are installed whole.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dreamactor.engines.runtimes import load_tensorrt
from dreamactor.engines.target import RTX_ARCHITECTURES
from dreamactor.errors import MissingDependency
from tests.kernels import tensorrt_bindings

ENGINES = Path(__file__).resolve().parents[2] / "engines"
# Which class of TensorRT each variable of ours holds; attributes used on it must be there.
HOLDS = {
    "build_worker.py": {
        "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
        "profile": "IOptimizationProfile", "cache": "ITimingCache", "tensor": "ITensor", "refused": "ParserError",
    },
    "tensorrt.py": {
        "_runtime": "Runtime", "_engine": "ICudaEngine", "engine": "ICudaEngine", "_context": "IExecutionContext",
        "refitter": "Refitter", "parser": "OnnxParserRefitter", "config": "IRuntimeConfig",
    },
}  # fmt: skip
MEMBERS = [
    "LayerType.ATTENTION_INPUT", "LayerType.QUANTIZE", "LayerType.DEQUANTIZE", "LayerType.PLUGIN_V3",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "nptype", "IProgressMonitor", "ILogger",
    "HardwareCompatibilityLevel.AMPERE_PLUS", "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY", "ParserError.desc",
]  # fmt: skip


def names_used() -> list[str]:
    """`Class.attribute` and `module.attribute` for each use in the sources."""
    found = set(MEMBERS)
    for file, holds in HOLDS.items():
        for node in ast.walk(ast.parse((ENGINES / file).read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == "trt":
                found.add(node.attr)
            elif isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "trt":
                found.add(f"{owner.attr}.{node.attr}")
            label = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if label in holds:
                found.add(f"{holds[label]}.{node.attr}")
    return sorted(name for name in found if not name.startswith("__") and name not in ("plugin",))


def missing(module: object, names: list[str]) -> list[str]:
    def has(name: str) -> bool:
        value = module
        for part in name.split("."):
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True

    return [name for name in names if not has(name)]


def test_the_list_is_not_empty_and_holds_what_matters() -> None:
    names = names_used()
    assert len(names) > 40
    central = {
        "OnnxParser.parse", "Builder.build_serialized_network", "IExecutionContext.execute_async_v3",
        "BuilderFlag.STRIP_PLAN", "BuilderFlag.REFIT", "IBuilderConfig.hardware_compatibility_level",
        "ICudaEngine.refittable", "OnnxParserRefitter.refit_from_bytes", "Refitter.refit_cuda_engine",
        "ParserError.node_operator", "ParserError.node_name",
    }  # fmt: skip
    assert central <= set(names)


def test_names_are_in_tensorrt_rtx() -> None:
    try:
        module = load_tensorrt("tensorrt_rtx")
    except MissingDependency as error:
        pytest.skip(str(error))
    targets = [f"ComputeCapability.{name.upper()}" for name in RTX_ARCHITECTURES]
    assert missing(module, [*names_used(), *targets]) == []


@pytest.mark.skipif(not tensorrt_bindings.available(), reason=tensorrt_bindings.MISSING)
def test_names_are_in_tensorrt_11() -> None:
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import tensorrt as trt\n"
        "def has(name):\n"
        "    value = trt\n"
        "    for part in name.split('.'):\n"
        "        if not hasattr(value, part): return False\n"
        "        value = getattr(value, part)\n"
        "    return True\n"
        "print(json.dumps([trt.__version__, [n for n in json.loads(sys.argv[2]) if not has(n)]]))"
    )
    arguments = [sys.executable, "-c", program, str(tensorrt_bindings.FOLDER), json.dumps(names_used())]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    version, absent = json.loads(result.stdout.splitlines()[-1])
    assert version == tensorrt_bindings.VERSION
    # TensorRT-RTX's alone: building for another card, and compiling where it runs.
    assert set(absent) == {
        "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability", "ComputeCapability",
        "DynamicShapesKernelSpecializationStrategy", "DynamicShapesKernelSpecializationStrategy.EAGER",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    }  # fmt: skip
