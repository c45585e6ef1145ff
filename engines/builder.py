"""One builder for TensorRT and TensorRT-RTX: an ONNX, a target and profiles in, an engine file and a report out."""

from __future__ import annotations

import json
import mmap
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamactor.engines.session import TensorSpec
from dreamactor.engines.target import Target
from dreamactor.errors import EngineError
from dreamactor.interfaces import Shape

# TensorRT-RTX keeps its kernels as source, with the tensor-core instruction in the name; TensorRT their names.
_FUSED_ATTENTION = re.compile(rb"fmha::(\w+mma_\w+_traits)|(_gemm_mha_v\d)\w*|(fmha_v\d_\w+)")
AMPERE_PLUS, SAME_COMPUTE_CAPABILITY = "ampere-plus", "same-compute-capability"
OnBuild = Callable[[str, int, int], None]
"""phase, step, steps of the builder; steps 0 where it does not say."""


@dataclass(frozen=True)
class BuildOptions:
    """What the user may choose about an engine.

    `weight_streaming` lets weights exceed the GPU's memory; `attention` is "native" (TensorRT's own), "plugin" (our
    Triton kernels, TensorRT only) or "auto" (the faster of the two, timed where it is built; `build_engine` takes it as
    "native").

    `strip` (TensorRT only; not yet run on a GPU) leaves the weights out of the plan: the set has the ONNX beside it,
    and a session puts its weights in. So a plan that took minutes serves every fine-tuned ONNX of the same graph and
    precision: `write_set` the same plan with another ONNX, and nothing is built. Whether TensorRT exchanges the scales
    of FP8 and INT8 as it does weights has not been run either: compare such a set with FP32 before it is used.

    `hardware_compatibility` (TensorRT only; not yet run on a GPU) is "" (this model of GPU, the fastest),
    "same-compute-capability" (all of its architecture) or "ampere-plus" (SM80 and later). There are no plans for other
    versions of TensorRT: `engines.trust` demands exactly the version that built an engine and was measured with it.
    """

    weight_streaming: bool = False
    attention: str = "auto"
    strip: bool = False
    hardware_compatibility: str = ""

    def architecture(self, target: Target) -> str:
        """What the engine runs on, as `trust.runs_on` reads it: the target's own architecture, or "sm80+"."""
        return "sm80+" if self.hardware_compatibility == AMPERE_PLUS else target.architecture

    def card(self, target: Target) -> str:
        """The model of card that the engine is for: TensorRT promises no other of the architecture, unless it was asked
        to. "" where the architecture is all that counts."""
        return "" if self.hardware_compatibility else target.gpu

    @property
    def notes(self) -> tuple[str, ...]:
        """What a manifest says about an engine that these options change."""
        stripped = ("plan without weights: those of the ONNX beside it are put in when it is opened",)
        level = (f"hardware compatibility: {self.hardware_compatibility}",)
        return (*(stripped if self.strip else ()), *(level if self.hardware_compatibility else ()))


@dataclass(frozen=True)
class BuildRequest:
    """One engine that is wanted: `onnx`, called after its network, for `target`.

    `shapes` has for every optimisation profile each input's minimum, optimum and maximum; `expected_layers` are the
    least numbers of layers by type after parsing. `fused_attention` ("fp16", "bf16", "fp8") asks for a fused attention
    kernel of that type in the engine, or one of TensorRT's whose name tells none: an engine of TensorRT-RTX without is
    refused; of TensorRT, which takes what it measured as the fastest, the report says so. `timing_cache` is the file
    for TensorRT's timings, to whose name that of the target's GPU is added.
    """

    onnx: Path
    target: Target
    shapes: Sequence[Mapping[str, tuple[Shape, Shape, Shape]]]
    options: BuildOptions = BuildOptions()
    expected_layers: Mapping[str, int] = field(default_factory=dict)
    fused_attention: str = ""
    timing_cache: Path | None = None

    @property
    def network(self) -> str:
        return self.onnx.stem

    def to_worker(self, plan: Path) -> dict[str, Any]:
        """What `build_worker` reads, as JSON has it; the engine goes to `plan`."""
        cache, target = self.timing_cache, self.target
        return {
            "onnx": str(self.onnx),
            "output": str(plan),
            "runtime": target.runtime,
            "architecture": target.capability,
            "compute_capability": target.architecture.upper() if target.runtime == "tensorrt_rtx" else "",
            "profiles": [dict(profile) for profile in self.shapes],
            "timing_cache": str(_of_card(cache, target.gpu)) if cache and target.gpu else "",
            "expected_layers": dict(self.expected_layers),
            **asdict(self.options),
        }


@dataclass(frozen=True)
class BuildReport:
    """`layers` counts parsed layers by type; `fused_attention` are the fused kernels' names found in the engine, and
    `unfused` says so where those that were asked for are not among them."""

    seconds: float
    bytes: int
    version: str
    layers: Mapping[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fused_attention: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    unfused: str = ""


def build_engine(request: BuildRequest, output: Path, on_build: OnBuild | None = None) -> BuildReport:
    """Builds the engine into `output`, in a child process; `output` appears only when it is complete. Raises
    EngineError with the reason where there is none."""
    started, target = time.monotonic(), request.target
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".build-") as folder:
        plan = Path(folder) / output.name
        report = _run(request, plan, on_build)
        kernels, unfused = fused_kernels(plan), ""
        if request.fused_attention and not _is_fused(kernels, request.fused_attention, target):
            found = ", ".join(kernels) or "none"
            unfused = f"no fused {request.fused_attention} attention is named in it (found: {found})"
            if target.runtime == "tensorrt_rtx":
                raise EngineError(
                    f"{request.network} for {target.name} is refused: {unfused}. Choose another precision."
                )
        plan.replace(output)
    return BuildReport(
        time.monotonic() - started,
        int(report["bytes"]),
        str(report["version"]),
        report["layers"],
        tuple(TensorSpec.from_dict(spec) for spec in report["inputs"]),
        tuple(TensorSpec.from_dict(spec) for spec in report["outputs"]),
        kernels,
        tuple(report["warnings"]),
        unfused,
    )


def _of_card(path: Path, gpu: str) -> Path:
    """Two cards of one architecture run at different speeds, and TensorRT refuses the timings of another card."""
    return path.with_stem(f"{path.stem}-{re.sub(r'[^A-Za-z0-9]+', '_', gpu)}")


def _run(request: BuildRequest, plan: Path, on_build: OnBuild | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "dreamactor.engines.build_worker"]
    problem, report = "", None
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(request.to_worker(plan)))
            child.stdin.close()
            for line in child.stdout:
                message = _message(line)
                report, problem = message.get("report", report), message.get("error", problem)
                if on_build and "phase" in message:
                    on_build(message["phase"], message["step"], message["steps"])
            code = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
        errors.seek(0)
        tail = errors.read()[-400:].strip()
    if report is None:
        problem = problem or f"the builder's process ended with code {code}" + (f": {tail}" if tail else "")
        raise EngineError(f"{request.network} cannot be built for {request.target.name}: {problem}")
    return dict(report)


def _message(line: str) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:  # something a library printed
        return {}
    return message if isinstance(message, dict) else {}


def fused_kernels(plan: Path) -> tuple[str, ...]:
    """Names of the fused attention kernels in an engine file."""
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _FUSED_ATTENTION.findall(content)
    return tuple(sorted({next(part for part in match if part).decode() for match in found}))


def _is_fused(kernels: tuple[str, ...], dtype: str, target: Target) -> bool:
    """Whether one is of this type. Of TensorRT's own some names tell none (`_gemm_mha_v2`), and are believed; in an
    engine of TensorRT-RTX another that does stands beside them."""
    silent = [kernel for kernel in kernels if not any(kind in kernel for kind in _TYPES.values())]
    fused = any(_TYPES[dtype] in kernel for kernel in kernels)
    return fused or (target.runtime == "tensorrt" and bool(silent))


_TYPES = {"fp16": "fp16", "bf16": "bf16", "fp8": "e4m3", "int8": "int8"}
