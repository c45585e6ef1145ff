"""The machine and the software at the time of a run, so that a figure can be traced to them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dreamactor.benchmark.smi import query_gpu
from dreamactor.engines.onnxruntime import available_threads, session_options
from dreamactor.errors import InputError, MissingDependency
from dreamactor.production.plan import available_memory
from dreamactor.serving.environment import DEFAULT_DIR, ServerEnvironment

PACKAGES = (
    "dreamactor", "numpy", "torch", "triton", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-cu13",
    "tensorrt-rtx", "tritonclient", "diffusers", "ai-edge-litert", "av", "opencv-python-headless",
)  # fmt: skip
SERVER_PACKAGES = ("nvidia-pytriton", "numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt-cu13")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")


def environment() -> dict[str, Any]:
    """Date, processor, GPU, versions, threads and commit: what stays the same in a run. `server_packages` are those
    of the server's environment, if there is one; Triton comes in nvidia-pytriton."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": processor_name(),
        "cores": available_threads(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpu": gpu(),
        "packages": _versions(PACKAGES),
        "server_packages": _versions(SERVER_PACKAGES, [str(ServerEnvironment(DEFAULT_DIR).site_packages)]),
        "threads": thread_counts(),
        "commit": _commit(),
    }


def thread_counts() -> dict[str, int | str]:
    """Threads of every ONNX Runtime session and, once it is loaded, of PyTorch; the variables of `THREADS` as set."""
    found: dict[str, int | str] = {name: os.environ[name] for name in THREADS if name in os.environ}
    with suppress(MissingDependency):
        found["onnxruntime"] = session_options().intra_op_num_threads
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = torch.get_num_threads()
    return found


def conditions() -> dict[str, Any]:
    """What changes during a run: load, clock, temperature and free memory; None where the system does not say."""
    return {
        "load": list(os.getloadavg()),
        "clock_mhz": _clock_mhz(),
        "temperature_c": _temperature(),
        "available_bytes": available_memory(),
        "gpu": gpu(),
    }


def processor_name() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


@contextmanager
def limited_to(count: int | None) -> Iterator[None]:
    """Inside, this process, all its threads and whatever it starts, servers too, have `count` cores; None leaves all.

    Raises InputError for a count that this process cannot have.
    """
    if count is None:
        yield
        return
    before = os.sched_getaffinity(0)
    if not 1 <= count <= len(before):
        raise InputError(f"--threads is from 1 to the {len(before)} cores that this process may use, not {count}.")
    _keep_to(set(sorted(before, key=_place)[:count]))
    try:
        yield
    finally:
        _keep_to(before)


def _keep_to(chosen: set[int]) -> None:
    for task in Path("/proc/self/task").iterdir():  # the call alone reaches one thread, not those of the libraries
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), chosen)


def _place(core: int) -> tuple[bool, int]:
    """Sorts the first hardware thread of every physical core before the second ones."""
    siblings = _lines(Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"))
    return bool(siblings) and int(re.split("[-,]", siblings[0])[0]) != core, core


def gpu() -> dict[str, str] | None:
    """Name, clocks, temperature and memory of the NVIDIA GPU in use, or None."""
    return query_gpu(GPU_FIELDS)


def _versions(names: Iterable[str], path: list[str] | None = None) -> dict[str, str]:
    """Versions of what is installed in the folders of `path`, or here."""
    found: dict[str, str] = {}
    for name in names:
        for package in importlib.metadata.distributions(name=name, path=sys.path if path is None else path):
            found.setdefault(name, package.version)
    return found


def _commit() -> str | None:
    tool = shutil.which("git")
    if tool is None:
        return None
    folder = str(Path(__file__).resolve().parent)
    done = subprocess.run(
        [tool, "-C", folder, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def _clock_mhz() -> float | None:
    values = [float(line.partition(":")[2]) for line in _lines(Path("/proc/cpuinfo")) if line.startswith("cpu MHz")]
    return sum(values) / len(values) if values else None


def _temperature() -> float | None:
    found = [line for path in Path("/sys/class/thermal").glob("thermal_zone*/temp") for line in _lines(path)]
    values = [int(line) / 1000 for line in found if line.lstrip("-").isdigit()]
    return max(values) if values else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
