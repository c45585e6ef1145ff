"""What an engine set is built for: a runtime and a GPU architecture, from one word."""

from __future__ import annotations

from dataclasses import dataclass

from dreamactor.engines.gpu import local_gpu, usable_gpu
from dreamactor.errors import EngineError, InputError

RTX_ARCHITECTURES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


@dataclass(frozen=True)
class Target:
    """`name` as it was asked for, `runtime` "onnxruntime", "tensorrt" or "tensorrt_rtx", `architecture` "any" or like
    "sm89". `gpu` is the model of card whose kernels TensorRT times; TensorRT-RTX chooses its own where it runs."""

    name: str
    runtime: str
    architecture: str
    gpu: str = ""

    @property
    def is_onnx(self) -> bool:
        return self.runtime == "onnxruntime"

    @property
    def capability(self) -> int:
        """89 for "sm89", 0 for "any"."""
        return int(self.architecture.removeprefix("sm")) if self.architecture != "any" else 0

    @property
    def precision(self) -> str:
        """What is built where no precision is named: on a GPU 16 bits, BF16 where TensorRT has it in tensor cores."""
        if self.name == "cpu":
            return "fp32"
        return "bf16" if self.capability >= 80 else "fp16"


def parse_target(name: str) -> Target:
    """`cpu`, `cuda`, `tensorrt`, `rtx`, `sm75`…`sm121`, or `auto` (what is installed for the GPU, else the CPU).

    `tensorrt` and `rtx` are for the GPU of this machine; an `sm…` target is built by TensorRT-RTX on any machine.
    Raises InputError for another word, EngineError where a local GPU is needed and there is none that will do.
    """
    if name == "auto":
        return parse_target(_automatic())
    gpu = local_gpu()
    if gpu is not None and gpu.refusal and name in ("cuda", "tensorrt", "rtx"):
        raise EngineError(f"Target '{name}' cannot be built here. {gpu.refusal}")
    if name in ("cpu", "cuda"):
        return Target(name, "onnxruntime", "any")
    if name in RTX_ARCHITECTURES:
        return Target(name, "tensorrt_rtx", name)
    if name not in ("tensorrt", "rtx"):
        choices = ("auto", "cpu", "cuda", "tensorrt", "rtx", *RTX_ARCHITECTURES)
        hint = " Engines for another NVIDIA GPU are built on a machine that has one, as 'tensorrt'."
        hint = hint if name.startswith("sm") else ""
        raise InputError(f"There is no target '{name}'; choose one of {', '.join(choices)}.{hint}")
    if gpu is None:
        raise EngineError(
            f"Target '{name}' builds for the GPU of this machine, and there is none (or no driver). "
            f"For another machine's RTX card give its architecture: {', '.join(RTX_ARCHITECTURES)}."
        )
    if name == "rtx" and gpu.architecture not in RTX_ARCHITECTURES:
        raise EngineError(
            f"TensorRT-RTX builds for {', '.join(RTX_ARCHITECTURES)}; this GPU is {gpu.architecture}: use 'tensorrt'."
        )
    if name == "rtx":
        return Target(name, "tensorrt_rtx", gpu.architecture)
    return Target(name, "tensorrt", gpu.architecture, gpu.name)


def _automatic() -> str:
    from importlib.util import find_spec

    if usable_gpu() is None:
        return "cpu"
    if find_spec("tensorrt") is not None:
        return "tensorrt"
    from dreamactor.engines.onnxruntime import CUDA, available_providers

    return "cuda" if CUDA in available_providers() else "cpu"
