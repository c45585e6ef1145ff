"""The two TensorRTs as one module parameter: same names, found and imported where they are used."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from dreamactor.engines.gpu import local_gpu
from dreamactor.errors import EngineError, MissingDependency

MODULES = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),  # the wheel of bindings alone has only the second
}
_PACKAGES = {
    "tensorrt": ("tensorrt-cu13-bindings", "tensorrt"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx"),
}
_INSTALL = {
    "tensorrt": "pip install 'dreamactor[gpu]' (tensorrt-cu13)",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}


def load_tensorrt(runtime: str) -> ModuleType:
    """`tensorrt` or `tensorrt_rtx`; raises MissingDependency with the command that installs it, EngineError for another
    name (of a manifest) or where it is installed and does not load."""
    if runtime not in MODULES:
        raise EngineError(f"There is no runtime '{runtime}'; choose one of onnxruntime, {', '.join(MODULES)}.")
    for name in MODULES[runtime]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != name:
                raise EngineError(
                    f"{runtime} is installed and does not load ({error}): install it again, {_INSTALL[runtime]}."
                ) from error
    raise MissingDependency(f"{runtime} is not installed: {_INSTALL[runtime]}.")


def runtime_version(runtime: str) -> str:
    """Installed version of "onnxruntime", "tensorrt" or "tensorrt_rtx"; a TensorRT is not imported for it where its
    package tells. Raises as `load_tensorrt` does."""
    if runtime == "onnxruntime":
        from dreamactor.engines import onnxruntime

        return onnxruntime.version()
    for package in _PACKAGES.get(runtime, ()):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return str(load_tensorrt(runtime).__version__)


def start(kind: Callable[[Any], Any], logger: Any, messages: Sequence[str]) -> Any:
    """`trt.Runtime` or `trt.Builder` with `logger`, which fills `messages`.

    Raises EngineError with what these say where it does not start, as on a driver that is too old.
    """
    try:
        return kind(logger)
    except TypeError as error:  # all that pybind11 says of a constructor that returned nothing
        gpu = local_gpu()
        driver = f"this machine's is for CUDA {gpu.driver}" if gpu else "this machine has none, or no GPU"
        raise EngineError(
            f"TensorRT does not start: {'; '.join(messages[-2:]) or error}. TensorRT 11 and TensorRT-RTX need a driver "
            f"for CUDA 13; {driver}."
        ) from error


def collecting_logger(trt: ModuleType, severity: str) -> tuple[Any, list[str]]:
    """A TensorRT logger and the list it fills with messages of `severity` ("ERROR", "WARNING") or worse."""
    messages: list[str] = []
    least = getattr(trt.ILogger.Severity, severity)

    class Collector(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity <= least:
                messages.append(text[:500])

    return Collector(), messages
