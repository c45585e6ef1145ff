"""What this machine can run: versions found, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass

from dreamactor.errors import DreamActorError

PACKAGES = (
    ("torch", "export, training", "pip install -e '.[export]'"),
    ("triton", "custom kernels", "pip install -e '.[export]'"),
    ("onnx", "export", "pip install -e '.[export]'"),
    ("onnxscript", "export", "pip install -e '.[export]'"),
    ("tensorrt-cu13-libs", "TensorRT engines", "pip install -e '.[gpu]'"),
    ("tensorrt-rtx-cu13-libs", "TensorRT-RTX engines, cross-built on any machine", "pip install -e '.[rtx]'"),
    ("nvidia-modelopt", "FP8 and INT8", "make setup"),
    ("av", "video", "pip install -e ."),
    ("ai-edge-litert", "landmarks", "pip install -e ."),
    ("tritonclient", "the gRPC client", "pip install -e '.[serve]'"),
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
    return [*_machine(), _gpu(), _onnxruntime(), *_packages(), _assets(), _server(), _sets()]


def _machine() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", True),
        Finding("processor", f"{cores} cores, {memory:.0f} GiB memory", True),
    ]


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", "none: engines run on the CPU, RTX engines can be cross-built", True)
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    if result.returncode:
        return Finding("gpu", result.stdout.strip() or result.stderr.strip(), False, "check the NVIDIA driver")
    return Finding("gpu", "; ".join(result.stdout.strip().splitlines()), True)


def _onnxruntime() -> Finding:
    """Two packages hold the same module, and the second to be installed overwrites the first."""
    found = {name: version for name in ("onnxruntime", "onnxruntime-gpu") if (version := _version(name))}
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    if len(found) == 2:
        return Finding("onnxruntime", text, False, "both are installed: uninstall both, then make setup")
    return Finding("onnxruntime", text or "missing (CPU and CUDA engines)", bool(found), "" if found else "make setup")


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
    return Finding("engine sets", ", ".join(sets) or "none yet", bool(sets), "" if sets else "make engines")
