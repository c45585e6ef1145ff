"""On a machine with an NVIDIA GPU: engines by whatever runtime is there, run beside FP32, as one dated JSON.

`python -m dreamactor.production.gpu_check` is the engines' part of `make gpu-check`. Not yet run: it needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreamactor.engines.gpu import local_gpu
from dreamactor.engines.runtimes import runtime_version
from dreamactor.engines.target import RTX_ARCHITECTURES
from dreamactor.errors import EngineError, InputError
from dreamactor.export.recipes import RECIPES
from dreamactor.files import write_whole
from dreamactor.production.isolated import isolated
from dreamactor.production.make import REPORT_JSON, make_engines
from dreamactor.production.request import make_request
from dreamactor.production.verify import verify_set

PRECISIONS = tuple(RECIPES)
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


def check_engines(
    preset: str,
    folder: Path,
    log: Callable[[str], None] = print,
    on_result: Callable[[dict[str, Any]], object] = lambda report: None,
) -> dict[str, Any]:
    """Builds and verifies `preset` for every target and precision, each in a process of its own: one that fails or
    crashes is recorded and the rest goes on.

    Each result's `passed` is None where this GPU lacks the precision; `on_result` hears the report after every one.
    """
    gpu = local_gpu()
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "gpu": None if gpu is None else vars(gpu),
        "preset": preset, "results": [],
    }  # fmt: skip
    for target in targets():
        for precision in ("fp32", "fp16") if target == "cuda" else PRECISIONS:
            try:
                found = isolated(check, preset, precision, target, folder)
            except EngineError as error:
                found = {"passed": False, "error": str(error)}
            result = {"target": target, "precision": precision, **found}
            log(_said(result))
            report["results"].append(result)
            on_result(report)
    return report


def check(preset: str, precision: str, target: str, folder: Path) -> dict[str, Any]:
    """One set, built or found, and measured now: its `report`, whether it `passed`, `error` says why it did not."""
    try:
        request = make_request(preset, precision, target, output=folder / f"{preset}-{precision}-{target}")
    except InputError as error:
        return {"passed": None, "error": str(error)}
    except EngineError as error:
        return {"passed": False, "error": str(error)}
    try:
        made = make_engines(request)
        report = json.loads((made.folder / REPORT_JSON).read_text())
        passed = made.passed
        if not made.built:  # its figures are of another day and perhaps another driver
            verified = verify_set(made.folder)
            print(f"measured again:\n{verified.text}")
            passed = passed and verified.passed
            report["networks"] = [asdict(row) for row in verified.rows]
        result = {"passed": passed, "version": runtime_version(request.target.runtime), "report": report}
    except Exception as error:  # whatever a runtime throws, the other sets are of interest
        return {"passed": False, "error": f"{type(error).__name__}: {error}"}
    idle = [row["network"] for row in report["networks"] if not row["ran"]]
    if idle:
        return {**result, "passed": False, "error": f"{', '.join(idle)} did not run"}
    reason = no_plugin(report) if target == "tensorrt" and precision in PLUGIN_PRECISIONS else ""
    return {**result, "passed": False, "error": f"the attention plugin was not taken: {reason}"} if reason else result


def _said(result: dict[str, Any]) -> str:
    verdict = {True: "passed", False: "FAILED", None: "not supported here"}[result["passed"]]
    return f"{result['precision']} on {result['target']}: {verdict} {result.get('error', '')}".rstrip()


def no_plugin(report: dict[str, Any]) -> str:
    """Why the denoiser was not built with our kernels beside TensorRT's own attention; "" where it was."""
    facts = next(row["facts"] for row in report["networks"] if row["network"] == "denoiser")
    return str(facts.get("no_plugin", ""))


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes `engines_DEVICE_DATE.json`, anew after every set; status 0 when every engine whose types this GPU has ran
    and passed, 1 when one did not, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m dreamactor.production.gpu_check", description=__doc__)
    parser.add_argument("--preset", default="puppet", help="default: %(default)s")
    parser.add_argument("--engines", type=Path, default=Path("build/gpu-check"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("benchmark/results"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    if local_gpu() is None:
        print("There is no NVIDIA GPU (or no driver) here; run this on a machine that has one.", file=sys.stderr)
        return 2
    report = check_engines(options.preset, options.engines, on_result=lambda found: write(found, options.output))
    if not report["results"]:
        print("No runtime for this GPU is installed: pip install -e '.[gpu]'.", file=sys.stderr)
        return 1
    print(f"Written: {write(report, options.output)}")
    for result in report["results"]:
        print(_said(result))
    verdicts = [result["passed"] for result in report["results"]]
    return 0 if any(verdicts) and False not in verdicts else 1


def write(report: dict[str, Any], folder: Path) -> Path:
    """The report as a file named by its device and date."""
    folder.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"\W+", "_", report["gpu"]["name"])
    path = folder / f"engines_{device}_{report['date'][:10]}.json"
    write_whole(path, (json.dumps(report, indent=1) + "\n").encode())
    return path


if __name__ == "__main__":
    sys.exit(main())
