"""ONNX Runtime sessions: the CPU, or CUDA where it was asked for and is really there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamactor.engines.denormals import denormals_as_zero
from dreamactor.engines.session import Array, TensorSpec, check_inputs
from dreamactor.errors import EngineError, MissingDependency

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_HEAVY = {"Attention", "Conv", "ConvTranspose", "FusedConv", "FusedMatMul", "Gemm", "MatMul", "MultiHeadAttention"}
_RECORD = "session.record_ep_graph_assignment_info"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def available_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxRuntimeSession:
    """An ONNX model on ONNX Runtime.

    `model` is the file's bytes, or its path where the weights lie beside it as external data. `threads` None takes
    every core this process may use; `options` stand in place of `session_options(threads)`. Raises EngineError when the
    model cannot be loaded, or `provider` is not what the session and its products of matrices really run on;
    MissingDependency without onnxruntime.
    """

    def __init__(
        self, model: bytes | Path, name: str, threads: int | None = None, provider: str = CPU, options: Any = None
    ) -> None:
        ort = _import()
        options = options or session_options(threads)
        if provider not in available_providers():
            raise EngineError(f"{name} asks for {provider}; this onnxruntime has {', '.join(available_providers())}.")
        if provider == CUDA:
            options.add_session_config_entry(_RECORD, "1")
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()  # CUDA's and cuDNN's libraries from their wheels, unless torch has loaded them
        try:
            with denormals_as_zero():
                self._session: Any = ort.InferenceSession(
                    str(model) if isinstance(model, Path) else model, options, providers=[provider]
                )
        except Exception as error:  # onnxruntime raises a dozen types of its own
            raise EngineError(f"ONNX Runtime cannot load {name}: {_first_line(error)}") from error
        if self._session.get_providers()[0] != provider:  # CUDA falls back to the CPU without an error
            found = self._session.get_providers()[0]
            raise EngineError(f"{name} asked for {provider} but runs on {found}: check the CUDA and cuDNN libraries.")
        if provider == CUDA and (heavy := heavy_on_cpu(self._session)):
            raise EngineError(
                f"{name} asked for {provider}, and {len(heavy)} of its heavy nodes would run on the CPU "
                f"({', '.join(sorted(set(heavy)))}): upgrade onnxruntime-gpu or build the engines for another target."
            )
        self.name = name
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._session is None:
            raise EngineError(f"The session of {self.name} is closed.")
        feeds = check_inputs(self.name, self.inputs, inputs)
        names = [spec.name for spec in self.outputs]
        try:
            with denormals_as_zero():
                return dict(zip(names, self._session.run(names, feeds), strict=True))
        except Exception as error:
            raise EngineError(f"{self.name} failed in ONNX Runtime: {_first_line(error)}") from error

    def close(self) -> None:
        self._session = None


def available_providers() -> tuple[str, ...]:
    """What the installed onnxruntime was built with; raises MissingDependency without it."""
    return tuple(_import().get_available_providers())


def heavy_on_cpu(session: Any) -> list[str]:
    """The operators of the heavy nodes that an `InferenceSession` opened with `_RECORD` runs on the CPU, one a node.

    What computes shapes belongs there. Empty before onnxruntime 1.24, which does not tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == CPU]
    return [node.op_type for part in parts for node in part.get_nodes() if node.op_type in _HEAVY]


def version() -> str:
    """Installed onnxruntime version; raises MissingDependency without it."""
    return str(_import().__version__)


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(
            "onnxruntime is not installed: pip install 'dreamactor[cpu]' (with a GPU onnxruntime-gpu, never both)."
        ) from error
    return onnxruntime


def session_options(threads: int | None = None) -> Any:
    """Fresh `onnxruntime.SessionOptions` as every session here runs with; None takes every core of this process."""
    ort = _import()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Q/DQ stays dequantise-then-float: fused, FP8 models do not load and INT8 loses accuracy without a word.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Threads wait busily between a run's operators, which come every 0.1 ms, but not long: another job may want the
    # core. They stop with the run: five sessions share the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # see `denormals.py`
    return options


def _spec(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(value.name, _DTYPES.get(value.type, value.type), shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:400]
