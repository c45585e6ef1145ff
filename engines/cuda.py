"""The few calls of the CUDA driver that an engine's session needs, through ctypes: memory, copies, one stream.

No torch and no CUDA toolkit in the environment that runs engines. Names and signatures: CUDA Driver API 12 and 13.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from dreamactor.engines.gpu import driver
from dreamactor.engines.session import Array
from dreamactor.errors import EngineError


class Cuda:
    """The primary context of the first device and a stream in it."""

    def __init__(self) -> None:
        try:
            self._driver: Any = driver()
        except OSError as error:
            raise EngineError("There is no NVIDIA driver on this machine: TensorRT engines cannot run here.") from error
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        handle = ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.activate()
        self._call("cuStreamCreate", ctypes.byref(handle), 1)  # CU_STREAM_NON_BLOCKING
        self.stream = int(handle.value or 0)

    def activate(self) -> None:
        """Makes the context current in the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device; raises EngineError when there are not so many."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return int(address.value)

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: Array) -> None:
        """Queues a copy of a contiguous array; it must live until `wait`."""
        source = ctypes.c_void_p(array.ctypes.data)
        size = ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, size, ctypes.c_void_p(self.stream))

    def download(self, address: int, shape: tuple[int, ...], dtype: str) -> Array:
        """Queues a copy into a new array, complete after `wait`."""
        array = np.empty(shape, dtype)
        target, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(address), size, ctypes.c_void_p(self.stream))
        return array

    def wait(self) -> None:
        """Until everything queued is done; raises EngineError if any of it failed."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def close(self) -> None:
        if self._context:
            self.activate()
            self._call("cuStreamDestroy_v2", ctypes.c_void_p(self.stream))
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)
            self._context = ctypes.c_void_p()

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {code}"
            raise EngineError(f"CUDA: {function} failed: {reason}.")


class Buffer:
    """Device memory for one tensor, kept between runs and enlarged when a run needs more."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self._size = cuda, 0
        self.address = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes."""
        if size > self._size or not self.address:
            self.close()
            self.address, self._size = self._cuda.allocate(size), size
        return self.address

    def close(self) -> None:
        if self.address:
            self._cuda.free(self.address)
            self.address = self._size = 0
