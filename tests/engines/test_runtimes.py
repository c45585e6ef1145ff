"""What is said of a TensorRT that is missing, broken or newer than the driver, and what its version costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dreamactor.engines import runtimes, tensorrt
from dreamactor.engines.gpu import Gpu
from dreamactor.engines.runtimes import load_tensorrt, runtime_version, start
from dreamactor.errors import EngineError, MissingDependency
from tests.engines.test_builder import needs_rtx
from tests.kernels import tensorrt_bindings

BROKEN = {
    "raise ImportError('libnvinfer.so.11: cannot open shared object file')": "libnvinfer.so.11: cannot open",
    "import ctypes; ctypes.CDLL('libnothing_at_all.so')": "libnothing_at_all.so: cannot open",
    "import nothing_at_all": "No module named 'nothing_at_all'",
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.items())
def test_one_that_does_not_load_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "broken_runtime.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(runtimes.MODULES, "tensorrt", ("not_there_at_all", "broken_runtime"))
    with pytest.raises(EngineError, match=rf"tensorrt is installed and does not load \({reason}.*\): install it again"):
        load_tensorrt("tensorrt")
    monkeypatch.setitem(runtimes.MODULES, "tensorrt", ("not_there_at_all",))
    with pytest.raises(MissingDependency, match="tensorrt is not installed: pip install"):
        load_tensorrt("tensorrt")


@needs_rtx
def test_a_version_is_read_without_importing_tensorrt() -> None:
    program = (
        "import sys; from dreamactor.engines.runtimes import runtime_version; print(runtime_version('tensorrt_rtx'),"
        "[name for name in sys.modules if name.startswith('tensorrt')])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [load_tensorrt("tensorrt_rtx").__version__, "[]"]


@needs_rtx
def test_one_without_a_package_tells_its_version_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runtimes._PACKAGES, "tensorrt_rtx", ("not-there-at-all",))
    assert runtime_version("tensorrt_rtx") == load_tensorrt("tensorrt_rtx").__version__


@pytest.mark.skipif(not tensorrt_bindings.available(), reason=tensorrt_bindings.MISSING)
@pytest.mark.parametrize("kind", ["Runtime", "Builder"])
def test_one_that_does_not_start_says_what_it_needs(kind: str) -> None:
    """The real bindings over libraries that return nothing, as TensorRT does on a driver for CUDA 12."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tensorrt as trt\n"
        "from dreamactor.engines.runtimes import collecting_logger, runtime_version, start\n"
        "from dreamactor.errors import EngineError\n"
        "assert runtime_version('tensorrt') == trt.__version__\n"
        "logger, messages = collecting_logger(trt, 'ERROR')\n"
        "logger.log(trt.ILogger.Severity.ERROR, 'CUDA initialization failure with error: 35')\n"
        "try: start(getattr(trt, sys.argv[2]), logger, messages)\n"
        "except EngineError as error: print(error)"
    )
    arguments = [sys.executable, "-c", program, str(tensorrt_bindings.FOLDER), kind]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "TensorRT does not start: CUDA initialization failure with error: 35." in result.stdout
    assert "need a driver for CUDA 13" in result.stdout


def test_a_session_names_the_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

    def runtime(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt = SimpleNamespace(ILogger=ILogger, Runtime=runtime)
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda runtime: trt)
    closed: list[bool] = []
    monkeypatch.setattr(tensorrt, "Cuda", lambda: SimpleNamespace(close=lambda: closed.append(True)))
    monkeypatch.setattr(runtimes, "local_gpu", lambda: Gpu("NVIDIA L4", "sm89", 2**34, "12.4"))
    with pytest.raises(EngineError, match=r"returned nullptr\..* for CUDA 13; this machine's is for CUDA 12\.4"):
        tensorrt.TensorRTSession(b"plan", "denoiser", "tensorrt")
    assert closed == [True]


@needs_rtx
def test_one_that_starts_is_returned() -> None:
    trt = load_tensorrt("tensorrt_rtx")
    logger, messages = runtimes.collecting_logger(trt, "ERROR")
    assert isinstance(start(trt.Builder, logger, messages), trt.Builder)
