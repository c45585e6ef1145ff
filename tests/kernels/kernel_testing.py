"""What the kernel tests share: Triton's interpreter made right for bf16 and FP8, and how errors are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
import triton.experimental.gluon  # the launcher imports it on first use and must see compiled helpers
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver, interpreter

from dreamactor.kernels.reference import FP8_MAX

_TORCH = {
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float16: torch.float16,
    tl.float32: torch.float32,
}
_WIDTH = {1: (np.uint8, torch.uint8), 2: (np.uint16, torch.int16), 4: (np.uint32, torch.int32)}
_NARROW = (tl.bfloat16, tl.float8e4nv)  # the interpreter computes on their bit patterns


def _to_torch(data: np.ndarray, dtype: Any) -> Tensor:
    raw = {1: np.uint8, 2: np.int16, 4: np.float32}[data.itemsize]
    return torch.from_numpy(np.ascontiguousarray(data).view(raw).copy()).view(_TORCH[dtype.scalar])


def _convert(
    data: np.ndarray, source: Any, target: Any, rounding: Any, fallback: Callable[..., np.ndarray]
) -> np.ndarray:
    """float conversion rounded to nearest even; E4M3 saturates, as the hardware's cvt.satfinite does."""
    nearest = rounding is None or "RTNE" in str(rounding).upper()
    if source.scalar not in _TORCH or target.scalar not in _TORCH or not nearest:
        return fallback(data, source, target, rounding)
    values = _to_torch(data, source).float()
    if target.scalar == tl.float8e4nv:
        values = values.clamp(-FP8_MAX, FP8_MAX)
    converted = values.to(_TORCH[target.scalar])
    bits, raw = _WIDTH[converted.element_size()]
    return converted.view(raw).numpy().view(bits)


@contextmanager
def corrected() -> Iterator[None]:
    """Inside, the interpreter's casts, products and arithmetic on bf16 and E4M3 agree with torch bit for bit."""
    builder = interpreter.InterpreterBuilder
    saved = interpreter._convert_float, builder.create_dot, builder.binary_op
    original_convert, _, original_binary = saved

    def widened(handle: Any) -> np.ndarray:
        if handle.dtype.scalar in _NARROW:
            return _to_torch(handle.data, handle.dtype).float().numpy()
        return np.asarray(handle.data)

    def convert(data: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
        return _convert(data, source, target, rounding, original_convert)

    def create_dot(self: Any, a: Any, b: Any, c: Any, precision: Any, imprecise: Any) -> Any:
        product = np.matmul(widened(a), widened(b), dtype=c.data.dtype)
        return interpreter.TensorHandle(product + c.data, c.dtype.scalar)

    def binary_op(self: Any, left: Any, right: Any, operation: Callable[..., np.ndarray]) -> Any:
        dtype = left.dtype.scalar
        if dtype not in _NARROW or right.dtype.scalar != dtype:
            return original_binary(self, left, right, operation)
        result = operation(widened(left), widened(right))
        if result.dtype == np.bool_:
            return interpreter.TensorHandle(result, tl.int1)
        narrowed = convert(result.astype(np.float32), tl.float32, dtype, None)
        return interpreter.TensorHandle(narrowed.view(interpreter._get_np_dtype(dtype)), dtype)

    # The language's own helpers (tl.zeros, tl.max, ...) were made for the compiler when triton was imported; and when
    # one helper calls another, the interpreter leaves the language patched. Both are put back whole afterwards.
    language = (tl, tl.core, tl.math, tl.standard, tl.tensor, tl.dtype, tl.core.tensor_descriptor_base)
    before = [dict(vars(part)) for part in language]
    interpreter._convert_float, builder.create_dot, builder.binary_op = convert, create_dot, binary_op
    try:
        for part in (tl, tl.standard):
            for name, value in list(vars(part).items()):
                if isinstance(value, JITFunction):
                    setattr(part, name, interpreter.InterpretedFunction(value.fn))
        yield
    finally:
        interpreter._convert_float, builder.create_dot, builder.binary_op = saved
        for part, known in zip(language, before, strict=True):
            for name, value in list(vars(part).items()):
                if name in known and value is not known[name]:
                    setattr(part, name, known[name])
                elif name not in known and name != "interpreter_semantic":  # what its rewritten functions refer to
                    delattr(part, name)


class Numbers:
    """What the plugins ask of `tensorrt.plugin`, for sizes that are numbers."""

    cdiv = staticmethod(triton.cdiv)
    max = staticmethod(max)


def relative_error(result: Tensor, exact: Tensor) -> float:
    """||result - exact|| / ||exact|| in float64; NaN where anything is missing."""
    return float((result.double() - exact.double()).norm() / exact.double().norm())


def within(result: Tensor, same_precision: Tensor, exact: Tensor, absolute: float = 2e-4) -> bool:
    """FlashAttention's rule: no worse than twice torch's own error in the same precision, plus a small constant."""
    return relative_error(result, exact) <= 2 * relative_error(same_precision, exact) + absolute


@contextmanager
def sm_90(cache: Path) -> Iterator[None]:
    """Inside, Triton's launchers believe in an H100 and compile into `cache`; nothing can be launched."""

    class Driver:
        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

    known = driver._active
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(cache)
        driver.set_active(Driver())
        try:
            yield
        finally:
            driver._active = known
