"""The child process that parses an ONNX and builds an engine: what crashes here takes nothing with it.

TensorRT-RTX aborts the process on nodes it does not know. Run as `python -m dreamactor.engines.build_worker`, with
what `build_engine` asks for as JSON on stdin; prints one JSON object a line: {"phase", "step", "steps"} and at last
{"report"} or {"error"}. TensorRT's names are those of 11.4 and of TensorRT-RTX 1.7, which `tests/engines` checks.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from dreamactor.engines.onnxfile import external_files
from dreamactor.engines.runtimes import collecting_logger, load_tensorrt, start
from dreamactor.errors import EngineError, InputError
from dreamactor.files import make_folder, write_whole

_NOISE = "already exists, the output tensors of this new instance"  # of every function body that is inlined twice


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Builds `request["onnx"]` into `request["output"]`; returns the report."""
    trt = load_tensorrt(request["runtime"])
    logger, messages = collecting_logger(trt, "WARNING")
    if request["attention"] == "plugin":
        _register_plugins(trt, request)
    builder = start(trt.Builder, logger, messages)
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0)
    parser = trt.OnnxParser(network, logger)
    say(phase="parse", step=0, steps=0)
    _check_files(Path(request["onnx"]))
    if not parser.parse(_divisible(Path(request["onnx"])), request["onnx"]):
        errors = [_said(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError("it cannot be parsed: " + "; ".join(errors or messages or ["no reason given"]))
    if network.num_inputs == 0:
        raise EngineError("its ONNX is empty: there are no inputs.")
    messages[:] = [text for text in messages if _NOISE not in text]
    layers = Counter(str(network.get_layer(i).type).split(".")[-1] for i in range(network.num_layers))
    _check_layers(layers, request["expected_layers"])
    config = _config(trt, builder, network, request)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError("the builder gave up: " + "; ".join(messages[-3:] or ["no reason given"]))
    content = memoryview(plan)
    Path(request["output"]).write_bytes(content)
    if request["timing_cache"]:
        messages[:0] = _keep_timing_cache(config, Path(request["timing_cache"]))
    return {
        "bytes": content.nbytes,
        "layers": dict(layers),
        "inputs": [_tensor(trt, network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(trt, network.get_output(i)) for i in range(network.num_outputs)],
        "warnings": messages[:20],
        "version": str(trt.__version__),
    }


def _check_files(onnx: Path) -> None:
    """The parser does not say which file it misses."""
    if not onnx.is_file():
        raise EngineError(f"there is no file {onnx}.")
    beside = sorted(external_files(onnx.read_bytes(), onnx.name))
    missing = [name for name in beside if not (onnx.parent / name).is_file()]
    if missing:
        raise EngineError(f"{onnx.name} has weights in {', '.join(missing)}, missing from {onnx.parent}.")


def _divisible(onnx: Path) -> bytes:
    """The model with a word on every `Attention` that allows the builder to take it apart where no one kernel does all
    of it; without, the builder gives up. Not in the file itself: ONNX Runtime refuses the attribute."""
    from onnx import helper, load

    model = load(onnx, load_external_data=False)
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            if node.op_type == "Attention" and not node.domain:
                node.attribute.append(helper.make_attribute("TRT_decomposable", 1))
    return bytes(model.SerializeToString())


def _said(refused: Any) -> str:
    """What the parser has against a model, and against which node of it where it knows one."""
    if not refused.node_operator():
        return str(refused.desc())
    name = refused.node_name() or f"number {refused.node()}"
    return f"operator {refused.node_operator()} of node {name} is refused ({refused.code().name}: {refused.desc()})"


def _register_plugins(trt: ModuleType, request: dict[str, Any], lazy: bool = False) -> None:
    """Defines the kernels as plugins, compiled for the request's GPU."""
    if request["runtime"] != "tensorrt":
        raise EngineError("TensorRT-RTX has no plugins: build without the attention plugin.")
    from dreamactor.kernels.plugin import register
    from dreamactor.kernels.tiles import table_key

    if table_key(request["architecture"]) is None:
        raise EngineError(f"there are no attention kernels for sm{request['architecture']}.")
    register(trt, request["architecture"], lazy=lazy)


def _config(trt: ModuleType, builder: Any, network: Any, request: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt)
    if request["compute_capability"]:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, request["compute_capability"]), 0)
    if request["weight_streaming"]:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if request["strip"]:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT)  # without it STRIP_PLAN takes back only the very same weights
    if request["hardware_compatibility"]:
        level = request["hardware_compatibility"].replace("-", "_").upper()
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if request["timing_cache"]:
        _use_timing_cache(config, Path(request["timing_cache"]))
    names: set[str] = {network.get_input(i).name for i in range(network.num_inputs)}
    for shapes in request["profiles"]:
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            if name not in names:
                raise EngineError(f"it has no input '{name}'; its inputs are {', '.join(sorted(names))}.")
            profile.set_shape(name, tuple(low), tuple(best), tuple(high))
        if config.add_optimization_profile(profile) < 0:
            raise EngineError("one of the optimisation profiles does not fit its inputs.")
    return config


def _check_layers(found: Counter[str], expected: dict[str, int]) -> None:
    """A custom node that became its function body, or Q/DQ that vanished, must not pass in silence."""
    missing = {kind: count for kind, count in expected.items() if found[kind] < count}
    if missing:
        wanted = ", ".join(f"{count} {kind}" for kind, count in missing.items())
        there = ", ".join(f"{found[kind]} {kind}" for kind in missing)
        raise EngineError(f"after parsing there should be at least {wanted} layers, and there are {there}.")


def _monitor(trt: ModuleType) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:  # the phases inside come by the thousand
                self.steps[phase] = steps
                say(phase=phase, step=0, steps=steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.steps:
                say(phase=phase, step=step + 1, steps=self.steps[phase])
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


def _use_timing_cache(config: Any, path: Path) -> None:
    """Starts from the timings in `path`, or from none where TensorRT will not have them: another device or version."""
    kept = b""
    with contextlib.suppress(OSError):
        kept = path.read_bytes()
    for content in (kept, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _keep_timing_cache(config: Any, path: Path) -> list[str]:
    """Writes the timings for the next build; where they cannot be written a sentence says so: the engine is built."""
    cache = config.get_timing_cache()
    if cache is None:
        return []
    try:
        make_folder(path.parent)
        write_whole(path, bytes(memoryview(cache.serialize())))
    except InputError as error:
        return [f"The timing cache {path} cannot be written, so the next build times again: {error}"]
    return []


def _tensor(trt: ModuleType, tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": str(trt.nptype(tensor.dtype).__name__), "shape": list(tensor.shape)}


def main() -> int:
    request = json.load(sys.stdin)
    try:
        say(report=build(request))
    except (EngineError, OSError) as error:
        say(error=str(error))
        return 1
    except Exception as error:  # the parent turns it into a sentence
        say(error=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
