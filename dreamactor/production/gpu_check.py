"""On a machine with an NVIDIA GPU: engines by whatever runtime is there, run beside FP32, as one dated JSON.

`python -m dreamactor.production.gpu_check` is the engines' part of `make gpu-check`. Not yet run: it needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreamactor.engines.gpu import local_gpu
from dreamactor.engines.runtimes import runtime_version
from dreamactor.engines.target import RTX_ARCHITECTURES
from dreamactor.errors import DreamActorError
from dreamactor.production.make import REPORT_JSON, make_engines
from dreamactor.production.request import make_request

PRECISIONS = ("fp16", "bf16", "fp8", "int8")
PLUGIN_PRECISIONS = ("fp16", "bf16")


def targets() -> tuple[str, ...]:
    """The GPU targets that are installed here."""
    gpu = local_gpu()
    if gpu is None:
        return ()
    found = ["tensorrt"] if find_spec("tensorrt") else []
    if find_spec("tensorrt_rtx_bindings") and gpu.architecture in RTX_ARCHITECTURES:
        found.append("rtx")
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
                reason = no_plugin(report) if target == "tensorrt" and precision in PLUGIN_PRECISIONS else ""
                if reason:
                    result |= {"passed": False, "error": f"the attention plugin was not tried: {reason}"}
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


def no_plugin(report: dict[str, Any]) -> str:
    """Why the denoiser was not built with our kernels beside TensorRT's own attention; "" where it was."""
    facts = next(row["facts"] for row in report["networks"] if row["network"] == "denoiser")
    return str(facts.get("no_plugin", ""))


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes `engines_DEVICE_DATE.json`; status 0 when every engine passed, 1 when one did not, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m dreamactor.production.gpu_check", description=__doc__)
    parser.add_argument("--preset", default="puppet", help="default: %(default)s")
    parser.add_argument("--engines", type=Path, default=Path("build/gpu-check"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("benchmark/results"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    if local_gpu() is None:
        print("There is no NVIDIA GPU (or no driver) here; run this on a machine that has one.", file=sys.stderr)
        return 2
    report = check_engines(options.preset, options.engines)
    print(f"Written: {write(report, options.output)}")
    for result in report["results"]:
        said = "passed" if result["passed"] else f"FAILED {result.get('error', 'its gate')}"
        print(f"{result['precision']} on {result['target']}: {said}")
    if not report["results"]:
        print("No runtime for this GPU is installed: pip install 'dreamactor[gpu]'.", file=sys.stderr)
    return 0 if report["results"] and all(result["passed"] for result in report["results"]) else 1


def write(report: dict[str, Any], folder: Path) -> Path:
    """The report as a file named by its device and date."""
    folder.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"\W+", "_", report["gpu"]["name"])
    path = folder / f"engines_{device}_{report['date'][:10]}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
