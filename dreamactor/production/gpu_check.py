"""On a machine with an NVIDIA GPU: engines by whatever runtime is there, run beside FP32, as one dated JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreamactor.engines.gpu import local_gpu
from dreamactor.engines.runtimes import runtime_version
from dreamactor.errors import DreamActorError
from dreamactor.production.make import REPORT_JSON, make_engines
from dreamactor.production.request import make_request

PRECISIONS = ("fp16", "bf16", "fp8", "int8")


def targets() -> tuple[str, ...]:
    """The GPU targets that are installed here."""
    if local_gpu() is None:
        return ()
    found = [name for name, module in (("tensorrt", "tensorrt"), ("rtx", "tensorrt_rtx_bindings")) if find_spec(module)]
    try:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            found.append("cuda")
    except ImportError:
        pass
    return tuple(found)


def check_engines(preset: str, folder: Path, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Builds and verifies `preset` for every target and precision; a failure is recorded and the rest goes on."""
    gpu = local_gpu()
    results = []
    for target in targets():
        for precision in ("fp32", "fp16") if target == "cuda" else PRECISIONS:
            result: dict[str, Any] = {"target": target, "precision": precision}
            try:
                request = make_request(preset, precision, target, output=folder / f"{preset}-{precision}-{target}")
                made = make_engines(request, log)
                report = json.loads((made.folder / REPORT_JSON).read_text())
                result |= {"passed": made.passed, "version": runtime_version(request.target.runtime), "report": report}
            except DreamActorError as error:
                result |= {"passed": False, "error": str(error)}
                log(f"{precision} on {target}: {error}")
            results.append(result)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": None if gpu is None else vars(gpu),
        "preset": preset,
        "results": results,
    }
