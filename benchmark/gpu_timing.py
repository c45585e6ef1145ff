"""Timing on a GPU, and the device's own peaks: matrix products and a copy, measured in the same run."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
from torch import Tensor

from dreamactor.benchmark.smi import query_gpu

PEAK_SIDE = 8192
COPY_BYTES = 2 << 30
TIMED_MS = 400  # that a function is run for


def median_ms(function: Callable[[], Any]) -> float:
    """Median of CUDA-event timings over about `TIMED_MS`, the L2 cache flushed before each run."""
    return float(triton.testing.do_bench(function, warmup=100, rep=TIMED_MS, return_mode="median"))


def once_ms(function: Callable[[], Any]) -> float:
    """CUDA-event time of one call, for work long enough that the L2 cache does not matter."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def state() -> str:
    """Clocks, temperature and power now, from nvidia-smi."""
    return _smi("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")


def environment() -> dict[str, Any]:
    """Device, driver and versions."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver, power limit, maximum clock": _smi("driver_version", "power.limit", "clocks.max.sm"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def _smi(*fields: str) -> str:
    return ", ".join((query_gpu(fields) or {}).values()) or "unknown"


def peaks() -> dict[str, float | None]:
    """TFLOP/s of large bf16 and E4M3 products, GB/s of a copy (bytes read and written); None if it cannot."""
    side = PEAK_SIDE
    a, b = torch.randn(2, side, side, device="cuda", dtype=torch.bfloat16).unbind()
    flop = 2 * side**3
    result: dict[str, float | None] = {"bf16_tflops": flop / median_ms(lambda: a @ b) / 1e9, "fp8_tflops": None}
    try:
        products = [_scaled_product(a, b, fast) for fast in (False, True)]
        result["fp8_tflops"] = flop / min(map(median_ms, products)) / 1e9
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        print(f"No FP8 matrix product on this device: {str(error).splitlines()[0]}")
    source = torch.empty(COPY_BYTES // 4, device="cuda").normal_()
    target = torch.empty_like(source)
    result["copy_gbps"] = 2 * COPY_BYTES / median_ms(lambda: target.copy_(source)) / 1e6
    return result


def _scaled_product(a: Tensor, b: Tensor, fast: bool) -> Callable[[], Tensor]:
    """A product in E4M3, summed in float32 or, if `fast`, in the tensor core's shorter accumulator."""
    one = torch.ones((), device="cuda")
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
    return lambda: torch._scaled_mm(a8, b8, one, one, out_dtype=torch.bfloat16, use_fast_accum=fast)


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, torch.empty gives NaN, so that what a kernel leaves out shows."""
    original = torch.empty

    def filled(*shape: Any, **options: Any) -> Tensor:
        tensor = original(*shape, **options)
        if tensor.dtype == torch.float8_e4m3fn:
            tensor.view(torch.uint8).fill_(0x7F)
        elif tensor.is_floating_point():
            tensor.fill_(float("nan"))
        return tensor

    torch.empty = filled
    try:
        yield
    finally:
        torch.empty = original
