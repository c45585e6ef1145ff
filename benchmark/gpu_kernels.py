"""Checks and times every kernel on the GPU of this machine; needs torch and triton, nothing else.

`python benchmark/gpu_kernels.py` from a checkout (nothing need be installed), or `python -m
dreamactor.benchmark.gpu_kernels`. Writes benchmark/results/gpu_kernels_DEVICE_DATE.json, and a plot where matplotlib
is there. A kernel that fails a check gets no figure. Ends with 1 if a check failed.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not __package__:  # run as a file: its folder has modules named as the standard library's
    sys.path.pop(0)

import argparse
import datetime
import json
import re
import shutil
import subprocess
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def _importable() -> None:
    """Make `dreamactor.kernels` and `dreamactor.benchmark` importable from a checkout that is not installed."""
    import importlib.util

    if importlib.util.find_spec("dreamactor") is None:
        sys.path.insert(0, str(ROOT))
    for room in ("kernels", "benchmark"):
        name = f"dreamactor.{room}"
        if importlib.util.find_spec(name) is None:
            folder = ROOT / room
            spec = importlib.util.spec_from_file_location(
                name, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)


_importable()

import torch  # noqa: E402

from dreamactor.benchmark import gpu_cases, gpu_graphs, gpu_plot, gpu_timing  # noqa: E402
from dreamactor.benchmark.gpu_cases import Case, Make  # noqa: E402
from dreamactor.kernels import dispatch, tiles  # noqa: E402
from dreamactor.kernels.tiles import Tile  # noqa: E402

FP8_ERROR, FP8_COSINE = 3e-2, 0.9995


def check(case: Case, tile: Tile) -> dict[str, Any]:
    """Errors of one tile against float64, and whether they keep to the rule."""
    with gpu_timing.poisoned():
        result = case.run(tile)
    tensors = result if isinstance(result, tuple) else (result,)
    finite = all(bool(tensor.float().isfinite().all()) for tensor in tensors)
    found, exact, same = case.sample(result).double(), case.exact().double(), case.same().double()
    error, allowed = (float((x - exact).norm() / exact.norm()) for x in (found, same))
    cosine = float((found * exact).sum() / (found.norm() * exact.norm()))
    passed = finite and error <= 2 * allowed + case.absolute
    if case.kernel == "fp8_attention":
        passed = passed and error <= FP8_ERROR and cosine >= FP8_COSINE
    return {"passed": passed, "finite": finite, "error": error, "error_of_torch": allowed, "cosine": cosine}


def measure(case: Case, peaks: dict[str, float | None]) -> dict[str, Any]:
    """Check every tile of the table, and time those that pass; the peers too if the case is timed."""
    size = case.table_size() if case.tuned else None  # else its times say nothing of the table's tiles
    entry: dict[str, Any] = {"kernel": case.kernel, "case": case.label, "size": size, "tiles": {}}
    for tile in case.candidates():
        try:
            row = check(case, tile)
            if row["passed"] and case.timed:
                row |= _rate(case, gpu_timing.median_ms(partial(case.run, tile)), peaks)
        except Exception as error:
            row = {"passed": False, "failure": f"{type(error).__name__}: {str(error)[:300]}"}
            traceback.print_exc()
        entry["tiles"][tile.name] = row
    entry["passed"] = all(row["passed"] for row in entry["tiles"].values()) if entry["tiles"] else None
    timed = {name: row for name, row in entry["tiles"].items() if "ms" in row}
    if timed:
        entry["fastest"] = min(timed, key=lambda name: timed[name]["ms"])
        entry["peers"] = {name: _peer(case, peer, peaks) for name, peer in case.peers.items()}
    torch.cuda.empty_cache()
    return entry


def _rate(case: Case, milliseconds: float, peaks: dict[str, float | None]) -> dict[str, float | None]:
    """Milliseconds, TFLOP/s or GB/s, and the share of what the device reached in this run."""
    rate = case.work / milliseconds / (1e9 if case.unit == "tflops" else 1e6)
    names = {"tflops": "fp8_tflops" if case.kernel == "fp8_attention" else "bf16_tflops", "gbps": "copy_gbps"}
    peak = peaks[names[case.unit]]
    return {"ms": milliseconds, case.unit: rate, "of_peak": rate / peak if peak else None}


def _peer(case: Case, peer: Any, peaks: dict[str, float | None]) -> dict[str, Any]:
    try:
        peer()
        return dict(_rate(case, gpu_timing.median_ms(peer), peaks))
    except Exception as error:  # not supported for this shape or device, or out of memory: said, not hidden
        torch.cuda.empty_cache()
        return {"not_run": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"}


def run(timed: bool, only: str, peaks: dict[str, float | None], deadline: float) -> list[dict[str, Any]]:
    """Every case, correctness first; stops taking up new ones at `deadline` (seconds of time.monotonic)."""
    groups: list[dict[str, list[Make]]] = [gpu_cases.CHECKED] + ([gpu_cases.TIMED] if timed else [])
    entries: list[dict[str, Any]] = []
    for group in groups:
        for kernel, makes in group.items():
            for make in makes if only in kernel else []:
                if time.monotonic() > deadline:
                    entries.append({"kernel": kernel, "case": "time was up", "passed": None, "tiles": {}})
                    continue
                entries.append(_measured(kernel, make, peaks))
                print(_line(entries[-1]), flush=True)
    broken = {entry["kernel"] for entry in entries if entry["passed"] is False}
    for entry in entries:  # no figure for a kernel that failed anywhere
        if entry["kernel"] in broken:
            for row in entry["tiles"].values():
                for figure in ("ms", "tflops", "gbps", "of_peak"):
                    row.pop(figure, None)
            entry.pop("fastest", None)
    return entries


def _measured(kernel: str, make: Make, peaks: dict[str, float | None]) -> dict[str, Any]:
    """One case with fresh random inputs, which are gone afterwards."""
    arch = dispatch.architecture(torch.device(gpu_cases.DEVICE, 0))
    if not tiles.sizes(kernel, arch):
        return {"kernel": kernel, "case": f"no tiles for sm_{arch}", "passed": None, "tiles": {}}
    torch.manual_seed(int(time.time()))
    try:
        return measure(make(), peaks)
    except Exception as error:
        traceback.print_exc()
        failure = {"passed": False, "failure": f"{type(error).__name__}: {str(error)[:300]}"}
        return {"kernel": kernel, "case": "could not be set up", "passed": False, "tiles": {"": failure}}
    finally:
        torch.cuda.empty_cache()


def _line(entry: dict[str, Any]) -> str:
    state = {True: "ok", False: "FAILED", None: "skipped"}[entry["passed"]]
    text = f"{entry['kernel']:17} {entry['case']:34} {state:7}"
    if "fastest" in entry:
        best = entry["tiles"][entry["fastest"]]
        rate = f"{best['tflops']:.0f} TFLOP/s" if "tflops" in best else f"{best['gbps']:.0f} GB/s"
        share = f" ({best['of_peak']:.0%} of this run's peak)" if best["of_peak"] else ""
        peers = ", ".join(f"{name} {row['ms']:.3f}" for name, row in entry["peers"].items() if "ms" in row)
        text += f" {entry['fastest']:26} {best['ms']:.3f} ms {rate}{share}; peers (ms): {peers or 'none'}"
    return text


def sanitize(seconds: float) -> dict[str, Any]:
    """compute-sanitizer over the smallest cases, where it is on PATH, for at most so long."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"run": False, "why": "compute-sanitizer is not on PATH"}
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, __file__, "--smallest"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"run": False, "why": f"not done in {seconds:.0f} s"}
    summary = re.findall(r"ERROR SUMMARY: .*", result.stdout + result.stderr)
    return {"run": True, "passed": result.returncode == 0, "summary": summary[-1] if summary else result.stdout[-500:]}


def smallest() -> int:
    """One small case of each kernel, every tile: what `sanitize` runs."""
    entries = [_measured(kernel, makes[0], {}) for kernel, makes in gpu_cases.CHECKED.items()]
    print("\n".join(map(_line, entries)))
    return 1 if any(entry["passed"] is False for entry in entries) else 0


def main() -> int:
    """Run from the command line; the exit status says whether every check passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--check", action="store_true", help="correctness only, no timing")
    parser.add_argument("--smallest", action="store_true", help="one small case of each kernel, nothing written")
    parser.add_argument("--seconds", type=float, default=540, help="take up no new case after this long")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results", help="folder for the results")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA GPU here; run this on a machine that has one.", file=sys.stderr)
        return 2
    try:
        dispatch.architecture(torch.device("cuda", 0))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    if options.smallest:
        return smallest()
    deadline = time.monotonic() + options.seconds
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python", *sys.argv]),
        **gpu_timing.environment(),
    }
    report["peaks"] = {} if options.check else gpu_timing.peaks()
    print(json.dumps(report, indent=1), flush=True)
    report["kernels"] = run(not options.check, options.only, report["peaks"], deadline)
    report["compiled_and_graphs"] = gpu_graphs.check_all(options.only)
    left = deadline - time.monotonic()
    report["sanitizer"] = sanitize(left) if left > 0 else {"run": False, "why": "time was up"}
    report["goals"] = gpu_plot.goals(report)
    options.output.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"\W+", "_", report["device"])
    path = options.output / f"gpu_kernels_{device}_{report['date'][:10]}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    gpu_plot.plot(report, path.with_suffix(".png"))
    print(json.dumps({name: report[name] for name in ("compiled_and_graphs", "sanitizer", "goals")}, indent=1))
    print("\n".join(map(_line, report["kernels"])))
    print(f"Written: {path}")
    failed = [entry for entry in report["kernels"] if entry["passed"] is False]
    failed += [row for row in report["compiled_and_graphs"] if not row["passed"]]
    return 1 if failed or report["sanitizer"].get("passed") is False else 0


if __name__ == "__main__":
    sys.exit(main())
