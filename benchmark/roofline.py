"""How far a network is from what the machine can do: peaks measured in the same run, and the share it reaches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamactor.benchmark.count import Work
from dreamactor.engines.onnxruntime import available_threads
from dreamactor.errors import EngineError, MissingDependency

COPY_BYTES = 256 << 20
PRODUCT_SIZE = 1536


@dataclass(frozen=True)
class Peaks:
    """Measured ceilings: operations a second of a large product, bytes a second read plus written by a copy; `how` says
    which product and copy."""

    operations: float
    bytes: float
    how: str

    @property
    def ridge(self) -> float:
        """Operations a byte from which on arithmetic is the limit."""
        return self.operations / self.bytes

    def floor(self, work: Work) -> float:
        """The least seconds that any implementation of this work needs on this machine."""
        return max(work.operations / self.operations, work.compulsory / self.bytes)

    def to_dict(self) -> dict[str, Any]:
        return {"operations": self.operations, "bytes": self.bytes, "ridge": self.ridge, "how": self.how}


def measure_peaks(rounds: int = 5) -> Peaks:
    """The processor's, the best of `rounds`: a ceiling is what the machine did once, not at the median.

    Raises MissingDependency without onnx.
    """
    threads = available_threads()
    product, copy = _product(threads), _copy(threads)
    operations = 2 * PRODUCT_SIZE**3 / min(_time(product) for _ in range(rounds))
    copied = 2 * COPY_BYTES / min(_time(copy) for _ in range(rounds))
    how = f"{PRODUCT_SIZE}^3 float32 product by ONNX Runtime; copy of {COPY_BYTES >> 20} MiB"
    return Peaks(operations, copied, how)


def measure_gpu_peaks(precision: str) -> Peaks:
    """The GPU's, by PyTorch at the median: a product in E4M3 for a set in 8 bits where the GPU has it, else in bf16.

    Raises MissingDependency without a PyTorch that runs there, EngineError where its memory is too small.
    """
    try:
        import torch

        from dreamactor.benchmark import gpu_timing
    except ImportError as error:
        raise MissingDependency("A GPU's peaks are measured with torch and triton: install them for CUDA.") from error
    if not torch.cuda.is_available():
        raise MissingDependency(f"A GPU's peaks need a PyTorch for CUDA, which this one ({torch.__version__}) is not.")
    try:
        found = gpu_timing.peaks()
    except torch.OutOfMemoryError as error:
        raise EngineError(
            "The GPU has too little free memory for its peaks to be measured: 5 GiB are needed."
        ) from error
    product = "fp8" if precision in ("fp8", "int8") and found["fp8_tflops"] else "bf16"
    operations, copied = found[f"{product}_tflops"], found["copy_gbps"]
    assert operations is not None
    assert copied is not None
    how = f"{gpu_timing.PEAK_SIDE}^3 {product} product and copy of {gpu_timing.COPY_BYTES >> 20} MiB by PyTorch"
    return Peaks(1e12 * operations, 1e9 * copied, how)


def placed(work: Work, seconds: float, peaks: Peaks) -> dict[str, Any]:
    """A network's point under the roof. `mfu` is its share of the measured peak of arithmetic, `floor_share` of what
    the tighter of both ceilings allows."""
    return {
        **work.to_dict(),
        "seconds": seconds,
        "achieved": work.operations / seconds,
        "mfu": work.operations / seconds / peaks.operations,
        "floor_seconds": peaks.floor(work),
        "floor_share": peaks.floor(work) / seconds,
    }


def _product(threads: int) -> Callable[[], object]:
    """A large product through ONNX Runtime, run once."""
    try:
        import onnx
        import onnxruntime
        from onnx import helper
    except ImportError as error:
        raise MissingDependency("Measuring peaks needs onnx: pip install 'dreamactor[export]'.") from error
    left = np.random.Generator(np.random.PCG64(0)).standard_normal((PRODUCT_SIZE, PRODUCT_SIZE), dtype=np.float32)
    edge = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, left.shape) for name in ("x", "y")]
    weight = onnx.numpy_helper.from_array(left, "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", edge[:1], edge[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": left})
    return lambda: session.run(None, {"x": left})


def _copy(threads: int) -> Callable[[], object]:
    """A copy far larger than most caches, divided among threads (numpy releases the interpreter's lock)."""
    source = np.ones(COPY_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    parts = [slice(len(source) * i // threads, len(source) * (i + 1) // threads) for i in range(threads)]

    def run() -> None:
        workers = [threading.Thread(target=np.copyto, args=(target[part], source[part])) for part in parts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return run


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
