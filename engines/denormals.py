"""Denormal numbers (below 1e-38) as zero, which no output of ours shows and on which Intel's cores are slow.

Attention that is sure of itself has such probabilities: of `puppet`'s six blocks one took 69 ms in place of 15. ONNX
Runtime's setting is for its own threads and, for good, for the one that opens a process's first session; the calling
thread works too, and here it is its caller's again afterwards.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_FLUSH = 0x8040  # of MXCSR: denormal results and operands are zero
_Environment = ctypes.c_uint32 * 8  # fenv_t on x86-64: the x87's 28 bytes, then MXCSR


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The C library's floating-point environment, where it is that of SSE."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    try:
        return ctypes.CDLL("libm.so.6")
    except OSError:
        return None


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Inside, for this thread; does nothing on other processors than x86-64. What was before comes back."""
    library = _library()
    if library is None:
        yield
        return
    before, now = _Environment(), _Environment()
    library.fegetenv(before)
    library.fegetenv(now)
    now[7] |= _FLUSH
    library.fesetenv(now)
    try:
        yield
    finally:
        library.fesetenv(before)
