"""Sessions of TensorRT and TensorRT-RTX engines: the same code, the module as a parameter.

An engine may hold several optimisation profiles; the first that takes a run's shapes is used. A stripped plan is filled
with the weights of its ONNX as it is opened (not yet run on a GPU).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dreamactor.engines.cuda import Buffer, Cuda
from dreamactor.engines.runtimes import collecting_logger, load_tensorrt, start
from dreamactor.engines.session import Array, TensorSpec, check_inputs
from dreamactor.errors import EngineError, InputError


@dataclass(frozen=True)
class Weights:
    """What fills a stripped plan: the bytes of an ONNX, and its path, beside which its external data lies."""

    onnx: bytes
    path: Path


class TensorRTSession:
    """A verified engine, deserialised on the local GPU; a stripped plan needs `weights`.

    Raises EngineError when it cannot be loaded there or when these are not its weights.
    """

    def __init__(self, plan: bytes, name: str, runtime: str, weights: Weights | None = None) -> None:
        trt = load_tensorrt(runtime)
        self.name, self._cuda = name, Cuda()
        self._logger, self._messages = collecting_logger(trt, "ERROR")
        try:
            self._runtime: Any = start(trt.Runtime, self._logger, self._messages)
            self._engine: Any = self._load(plan, runtime)
            self._fill(trt, weights)
            self._context: Any = self._prepare(trt)
        except BaseException:
            self._cuda.close()
            raise
        self.inputs, self.outputs = _specs(trt, self._engine)
        self._buffers = {spec.name: Buffer(self._cuda) for spec in (*self.inputs, *self.outputs)}
        self._profile = -1

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._context is None:
            raise EngineError(f"The session of {self.name} is closed.")
        feeds = check_inputs(self.name, self.inputs, inputs)
        self._cuda.activate()
        self._choose_profile({name: array.shape for name, array in feeds.items()})
        for name, array in feeds.items():
            if not self._context.set_input_shape(name, array.shape):
                raise InputError(f"{self.name} does not take {name} of shape {list(array.shape)}.")
            address = self._buffers[name].reserve(array.nbytes)
            self._cuda.upload(address, array)
            self._context.set_tensor_address(name, address)
        shapes = {spec.name: tuple(self._context.get_tensor_shape(spec.name)) for spec in self.outputs}
        for spec in self.outputs:
            size = int(np.prod(shapes[spec.name])) * np.dtype(spec.dtype).itemsize
            self._context.set_tensor_address(spec.name, self._buffers[spec.name].reserve(size))
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError(f"{self.name} failed: {self._reason()}")
        found = {
            spec.name: self._cuda.download(self._buffers[spec.name].address, shapes[spec.name], spec.dtype)
            for spec in self.outputs
        }
        self._cuda.wait()
        return found

    def close(self) -> None:
        if self._context is None:
            return
        self._cuda.activate()
        for buffer in self._buffers.values():
            buffer.close()
        self._context = self._engine = self._runtime = None  # in this order: each holds on to the next
        self._cuda.close()

    def _load(self, plan: bytes, runtime: str) -> Any:
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{runtime} cannot load {self.name}: {self._reason()}")
        return engine

    def _prepare(self, trt: ModuleType) -> Any:
        """A context to run in, with as much of the weights on the GPU as there is room for where they are streamed."""
        if self._engine.streamable_weights_size > 0:
            self._engine.weight_streaming_budget_v2 = self._engine.get_weight_streaming_automatic_budget()
        context = self._engine.create_execution_context(*_settings(trt, self._engine))
        if context is None:
            raise EngineError(f"{self.name} does not fit this GPU's memory: {self._reason()}")
        return context

    def _fill(self, trt: ModuleType, weights: Weights | None) -> None:
        """Puts `weights` in where the plan was stripped; an engine without its weights would run, and on zeros."""
        if weights is None:
            if self._engine.refittable:
                raise EngineError(f"{self.name} is a plan without weights, and its set has no ONNX to take them from.")
            return
        if not self._engine.refittable:
            raise EngineError(f"{self.name} has an ONNX beside its plan, and the plan was built to take no weights.")
        refitter = trt.Refitter(self._engine, self._logger)
        parser = trt.OnnxParserRefitter(refitter, self._logger)  # holds the weights until they are in the engine
        if not parser.refit_from_bytes(weights.onnx, str(weights.path)):
            said = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        elif not refitter.refit_cuda_engine():
            said = [f"missing {name}" for name in refitter.get_missing_weights()[:4]]
        else:
            return
        raise EngineError(
            f"The weights of {weights.path.name} do not fill the plan of {self.name}: "
            f"{'; '.join(said) or self._reason()}. It must be of the same graph and precision as the plan's own ONNX."
        )

    def _choose_profile(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        index = self._fitting(shapes)
        if index != self._profile:
            if not self._context.set_optimization_profile_async(index, self._cuda.stream):
                raise EngineError(f"{self.name} cannot switch to its profile {index}: {self._reason()}")
            self._cuda.wait()
            self._profile = index

    def _fitting(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        for index in range(self._engine.num_optimization_profiles):
            if all(
                _within(shape, self._engine.get_tensor_profile_shape(name, index)) for name, shape in shapes.items()
            ):
                return index
        sizes = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InputError(f"{self.name} was built for other sizes than {sizes}: build the engines with wider ranges.")

    def _reason(self) -> str:
        return "; ".join(self._messages[-2:]) or "no reason given"


def _settings(trt: ModuleType, engine: Any) -> tuple[Any, ...]:
    """TensorRT-RTX compiles its kernels where it runs. By default others stand in until those for a shape are done,
    with other times and other bits from run to run: here the first run waits for its own."""
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return ()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return (config,)


def _within(shape: tuple[int, ...], limits: tuple[Any, Any, Any]) -> bool:
    low, _, high = (tuple(limit) for limit in limits)
    return len(low) == len(shape) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))


def _specs(trt: ModuleType, engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    found: dict[Any, list[TensorSpec]] = {trt.TensorIOMode.INPUT: [], trt.TensorIOMode.OUTPUT: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
        found[engine.get_tensor_mode(name)].append(TensorSpec(name, dtype, tuple(engine.get_tensor_shape(name))))
    return tuple(found[trt.TensorIOMode.INPUT]), tuple(found[trt.TensorIOMode.OUTPUT])
