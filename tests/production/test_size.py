"""Networks above protobuf's 2 GiB: every stage, and the memory that it takes at its worst."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dreamactor.cli import main
from dreamactor.engines.manifest import read_bytes
from dreamactor.engines.onnxfile import external_files
from dreamactor.production.plan import available_memory

WEIGHTS = 2.5e9  # bytes in FP32, about
PROGRAM = """
import json, os, sys, threading
from pathlib import Path

def size(pid, kind):  # of a process and its children
    try:
        lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        children = open(f"/proc/{pid}/task/{pid}/children").read().split()
        return 1024 * int(lines[kind].split()[0]) + sum(size(child, kind) for child in children)
    except (OSError, KeyError, ValueError):  # it has just ended
        return 0

def watch():
    global resident
    while not done.wait(0.02):
        # of its own: what is mapped is not counted, whose memory the system takes back when it needs it
        peaks[stage[0]] = max(peaks.get(stage[0], 0), size(os.getpid(), "RssAnon"))
        resident = max(resident, size(os.getpid(), "VmRSS"))

def hear(what, step, steps):
    stage[0] = what
    print(what, file=sys.stderr, flush=True)

def main(folder, checkpoint, *builds):
    from dreamactor.checkpoints import read_preset
    from dreamactor.engines.target import parse_target
    from dreamactor.production.make import make_engines
    from dreamactor.production.plan import memory_needed, weight_bytes
    from dreamactor.production.request import Request
    from dreamactor.production.stages import Stages

    passed, needed = [], 0
    for precision, target in zip(builds[::2], builds[1::2]):
        request = Request(
            read_preset(checkpoint), precision, parse_target(target), checkpoint, folder / precision, folder / "store"
        )
        passed.append(make_engines(request, lambda line: None, hear).passed)
        stages = Stages(request, hear)
        needed = max(needed, memory_needed(stages))
    done.set()
    weights = weight_bytes(request.preset)
    worst = max(peaks, key=peaks.get)
    found = {"weights": weights, "needed": needed, "peak": peaks[worst], "resident": resident}
    print(json.dumps({**found, "at": worst, "passed": passed}))

if __name__ == "__main__":
    done, stage, peaks, resident = threading.Event(), ["start"], {}, 0
    threading.Thread(target=watch, daemon=True).start()
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
"""
CHECKPOINT = """
import dataclasses, sys
from dreamactor.networks import build, save
from dreamactor.presets import TransformerConfig, preset

sizes = TransformerConfig(dim=3328, depth=3, num_heads=26)
save(build(dataclasses.replace(preset("tiny"), name="large", steps=1, transformer=sizes)), sys.argv[1])
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in 16 bits, made in a process of its own."""
    there = available_memory()
    if there is None or there < 3 * WEIGHTS:
        pytest.skip(f"needs {3 * WEIGHTS / 1e9:.1f} GB of memory that the system counts")
    folder = tmp_path_factory.mktemp("large")
    subprocess.run([sys.executable, "-c", CHECKPOINT, str(folder)], check=True)
    return folder


def build_large(folder: Path, checkpoint: Path, *builds: str) -> float:
    """Builds precisions for targets, in pairs, within the memory that is promised; returns the weights' bytes."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    result = subprocess.run(
        [sys.executable, str(program), str(folder), str(checkpoint), *builds], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    print({name: f"{found[name] / 1e9:.2f} GB" for name in ("weights", "needed", "peak", "resident")}, found["at"])
    assert found["weights"] > max(2**31, 0.95 * WEIGHTS)
    assert found["passed"] == [True] * (len(builds) // 2)
    assert 0.2 * found["weights"] < found["peak"] < found["needed"]
    assert found["resident"] < 2.5 * found["weights"]
    return float(found["weights"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_and_a_half_gigabytes_of_weights_take_the_memory_that_is_promised(tmp_path: Path, large: Path) -> None:
    weights = build_large(tmp_path, large, "fp32", "cpu", "int8", "cpu")
    # the timestep's layers stay high: 9 of the 57 matrices of such a shallow network
    for precision, share in (("fp32", 1.0), ("int8", 0.39)):
        files = json.loads(read_bytes(tmp_path / precision))["networks"]["denoiser"]["files"]
        assert [file["path"] for file in files] == ["denoiser.onnx", "denoiser.onnx.data"]
        content = (tmp_path / precision / "denoiser.onnx").read_bytes()
        assert external_files(content, "denoiser.onnx") == {"denoiser.onnx.data"}
        assert files[1]["bytes"] < 1.01 * share * weights


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("precision", "least", "most"), [("fp8", 0.24, 0.5), ("bf16", 0.48, 0.6)])
def test_as_much_is_built_into_an_engine_within_the_same_memory(
    tmp_path: Path, large: Path, precision: str, least: float, most: float
) -> None:
    weights = build_large(tmp_path, large, precision, "sm89")
    engine = json.loads(read_bytes(tmp_path / precision))["networks"]["denoiser"]["files"][0]
    assert least * weights < engine["bytes"] < most * weights


@pytest.mark.skipif((available_memory() or 2**60) > 39 * 2**30, reason="this machine might have room for m1")
def test_m1_is_refused_with_the_figure_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["build", "--preset", "m1", "--target", "cpu", "--precision", "int8"]) != 0
    said = capsys.readouterr().err
    assert "31.05 GB of FP32 weights: up to 39.6 GiB of memory are needed, and" in said
    assert "GiB are available here" in said
    assert list(tmp_path.rglob("*.onnx")) == []
