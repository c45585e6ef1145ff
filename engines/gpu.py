"""The NVIDIA GPU of this machine, asked of the driver itself: no torch, no CUDA toolkit, no process started."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
CUDA = 13  # what the packages of TensorRT 11, TensorRT-RTX and ONNX Runtime are made for
OLDEST = 75  # Turing: TensorRT 11 runs on nothing earlier


@dataclass(frozen=True)
class Gpu:
    """`architecture` like "sm89", `memory` in bytes, `driver` the CUDA version the driver speaks, like "13.0"."""

    name: str
    architecture: str
    memory: int
    driver: str

    @property
    def capability(self) -> int:
        """89 for "sm89"."""
        return int(self.architecture.removeprefix("sm"))

    @property
    def refusal(self) -> str:
        """Why no engine for GPUs runs on it, and what to do; "" where they do."""
        if self.capability < OLDEST:
            return f"The {self.name} is {self.architecture}; TensorRT 11 runs from sm{OLDEST} (Turing) on."
        if int(self.driver.split(".")[0]) < CUDA:
            return (
                f"The driver of this machine's GPU is for CUDA {self.driver}; TensorRT 11, TensorRT-RTX and "
                f"onnxruntime-gpu need one for CUDA {CUDA} (version 580 or later)."
            )
        return ""


def usable_gpu() -> Gpu | None:
    """`local_gpu`, or None where no engine for GPUs runs on it."""
    gpu = local_gpu()
    return gpu if gpu is not None and not gpu.refusal else None


def driver() -> ctypes.CDLL:
    """NVIDIA's; raises OSError where there is none."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


@functools.cache
def local_gpu() -> Gpu | None:
    """The first GPU, or None where there is no driver or no device."""
    try:
        cuda = driver()
    except OSError:
        return None
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    device, major, minor, cuda_version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(128), ctypes.c_size_t()
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        or cuda.cuDriverGetVersion(ctypes.byref(cuda_version))
    )
    if failed:
        return None
    version = f"{cuda_version.value // 1000}.{cuda_version.value % 1000 // 10}"
    return Gpu(name.value.decode(), f"sm{major.value}{minor.value}", memory.value, version)
