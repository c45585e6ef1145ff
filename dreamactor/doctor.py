"""What this machine can run: versions found, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreamactor.errors import DreamActorError

if TYPE_CHECKING:
    from dreamactor.engines.gpu import Gpu

SETUP = "rm -f .venv/.ready* && make setup"  # without its stamps the environment is set to rights, not made anew
PACKAGES = (
    ("torch", "export, training", "pip install 'dreamactor[export]'"),
    ("triton", "custom kernels", "pip install 'dreamactor[export]'"),
    ("onnx", "export", "pip install 'dreamactor[export]'"),
    ("onnxscript", "export", "pip install 'dreamactor[export]'"),
    ("tensorrt-rtx-cu13-libs", "TensorRT-RTX engines, cross-built on any machine", "pip install 'dreamactor[rtx]'"),
    ("nvidia-modelopt", "FP8 and INT8", "pip install 'dreamactor[quantise]'"),
    ("av", "video", "pip install dreamactor"),
    ("ai-edge-litert", "landmarks", "pip install dreamactor"),
    ("tritonclient", "the gRPC client", "pip install 'dreamactor[serve]'"),
)


@dataclass(frozen=True)
class Finding:
    """One line: what it is, what was found, and when it is missing what to do."""

    subject: str
    found: str
    ok: bool
    remedy: str = ""


def examine() -> list[Finding]:
    """Machine, GPU, packages, landmark models, server environment and engine sets, in that order."""
    from dreamactor.engines.gpu import local_gpu, usable_gpu

    gpu, usable = local_gpu(), usable_gpu()
    return [
        *_machine(), _gpu(gpu), *_compiler(gpu), _onnxruntime(usable), _tensorrt(usable), *_packages(), _assets(),
        _server(), _sets(),
    ]  # fmt: skip


def _machine() -> list[Finding]:
    from dreamactor.engines.onnxruntime import available_threads

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", True),
        Finding("processor", f"{available_threads()} cores, {memory:.0f} GiB memory", True),
    ]


def _gpu(gpu: Gpu | None) -> Finding:
    if gpu is not None:
        memory = f"{gpu.memory / 2**30:.0f} GiB"
        found = f"{gpu.name}, {memory}, {gpu.architecture}, driver for CUDA {gpu.driver}"
        return Finding("gpu", found, not gpu.refusal, gpu.refusal)
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", "none: engines run on the CPU, RTX engines can be cross-built", True)
    remedy = "check the driver; start a container with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    return Finding("gpu", "nvidia-smi is here, and its driver shows no GPU to compute on", False, remedy)


def _compiler(gpu: Gpu | None) -> list[Finding]:
    """Triton compiles its launchers where the kernels run: `make gpu-check` and the benchmark's PyTorch."""
    if gpu is None:
        return []
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    missing = [name for name, there in (("gcc", compiler), ("Python.h", headers)) if not there]
    if missing:
        remedy = "apt install gcc python3-dev (or your system's names of them)"
        return [Finding("C compiler", f"missing {' and '.join(missing)} (kernels in PyTorch)", False, remedy)]
    return [Finding("C compiler", str(compiler), True)]


def _onnxruntime(gpu: Gpu | None) -> Finding:
    """Two packages hold the same module, and the second to be installed overwrites the first."""
    found = {name: version for name in ("onnxruntime", "onnxruntime-gpu") if (version := _version(name))}
    text = ", ".join(f"{name} {version}" for name, version in found.items()) or "missing (CPU and CUDA engines)"
    if len(found) == 2:
        return Finding("onnxruntime", f"{text}: each overwrites the other", False, SETUP)
    if gpu is not None and "onnxruntime-gpu" not in found:
        return Finding("onnxruntime", f"{text}, not onnxruntime-gpu", False, SETUP)
    return Finding("onnxruntime", text, bool(found), "" if found else SETUP)


def _tensorrt(gpu: Gpu | None) -> Finding:
    version = _version("tensorrt-cu13")
    if version or gpu is None:
        return Finding("tensorrt", version or "none: its engines need an NVIDIA GPU", True)
    return Finding("tensorrt", "missing (TensorRT engines)", False, SETUP)


def _packages() -> list[Finding]:
    found = ((name, _version(name), purpose, remedy) for name, purpose, remedy in PACKAGES)
    return [
        Finding(name, version, True) if version else Finding(name, f"missing ({purpose})", False, remedy)
        for name, version, purpose, remedy in found
    ]


def _version(package: str) -> str:
    """ "" where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _assets() -> Finding:
    from dreamactor.motion.assets import models_folder

    try:
        return Finding("landmark models", str(models_folder()), True)
    except DreamActorError as error:
        return Finding("landmark models", "missing", False, str(error))


def _server() -> Finding:
    from dreamactor.serving.environment import DEFAULT_DIR, ServerEnvironment

    try:
        ServerEnvironment(DEFAULT_DIR).require()
        return Finding("server environment", str(DEFAULT_DIR), True)
    except DreamActorError as error:
        return Finding("server environment", "missing", False, str(error))


def _sets() -> Finding:
    from dreamactor.paths import ENGINES

    sets = sorted(path.parent.name for path in ENGINES.glob("*/manifest.json"))
    return Finding(
        "engine sets", ", ".join(sets) or "none yet", bool(sets), "" if sets else "dreamactor build (or make engines)"
    )
