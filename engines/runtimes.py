"""The two TensorRTs as one module parameter: same names, found and imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from dreamactor.errors import InputError, MissingDependency

_MODULES = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),  # the wheel of bindings alone has only the second
}
_INSTALL = {
    "tensorrt": "pip install 'dreamactor[gpu]' (tensorrt-cu13)",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}


def load_tensorrt(runtime: str) -> ModuleType:
    """`tensorrt` or `tensorrt_rtx`; raises MissingDependency with the command that installs it."""
    if runtime not in _MODULES:
        raise InputError(f"There is no runtime '{runtime}'; choose one of onnxruntime, {', '.join(_MODULES)}.")
    for name in _MODULES[runtime]:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MissingDependency(f"{runtime} is not installed: {_INSTALL[runtime]}.")


def runtime_version(runtime: str) -> str:
    """Installed version of "onnxruntime", "tensorrt" or "tensorrt_rtx", from its metadata where that is quicker."""
    if runtime == "onnxruntime":
        from dreamactor.engines import onnxruntime

        return onnxruntime.version()
    return str(load_tensorrt(runtime).__version__)


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
