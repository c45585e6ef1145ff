"""Which sets are measured: what was asked for, what lies beside it and is sound, and what this machine's GPU lacks."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from dreamactor import cli, paths
from dreamactor.benchmark import engine_sets
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.engine_sets import Sets, label, on_gpu, open_sets, runtime_name
from dreamactor.benchmark.sections import limits
from dreamactor.benchmark.settings import Settings
from dreamactor.engines import open_engines, read_manifest
from dreamactor.engines.gpu import Gpu
from dreamactor.errors import EngineError, InputError


@pytest.fixture
def shelf(tiny_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of engine sets with the tiny one in it, up to date."""
    monkeypatch.setattr(paths, "ENGINES", tmp_path)
    shutil.copytree(tiny_engines, tmp_path / "tiny-fp32-cpu")
    return tmp_path


def another(shelf: Path, name: str, **changes: str) -> Path:
    """A copy of the tiny set under another name, its manifest changed."""
    folder = shelf / name
    shutil.copytree(shelf / "tiny-fp32-cpu", folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def opened(settings: Settings) -> Sets:
    with ExitStack() as closing:
        return open_sets(settings, closing, print)


def test_a_set_that_is_out_of_date_or_broken_is_left_out_with_the_reason(shelf: Path) -> None:
    stale = another(shelf, "tiny-int8-cpu", precision="int8")
    broken = another(shelf, "tiny-fp16-cpu")
    (broken / "manifest.json").write_text("{}")

    found = opened(Settings(preset="tiny"))

    assert list(found.opened) == ["fp32"]
    assert "dreamactor build --preset tiny --precision int8 --target cpu" in found.left_out[str(stale)]
    assert "is not an engine manifest" in found.left_out[str(broken)]


def test_one_that_was_asked_for_must_open(shelf: Path) -> None:
    folder = another(shelf, "mine")
    (folder / "denoiser.onnx").write_bytes(b"changed")
    with pytest.raises(EngineError):
        opened(Settings(engines=folder))


def test_where_a_gpu_is_its_sets_are_taken_up_and_what_is_not_built_is_said(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not opened(Settings(preset="tiny")).left_out  # no GPU, no word of it
    card = Gpu("A Card", "sm89", 2**34, "13.0")
    monkeypatch.setattr(engine_sets, "local_gpu", lambda: card)
    foreign = another(shelf, "tiny-fp16-sm120", target="sm120", precision="fp16")
    stale = another(shelf, "tiny-fp16-sm89", target="sm89", precision="fp16")

    found = opened(Settings(preset="tiny"))

    assert str(stale) in found.left_out
    assert str(foreign) not in found.left_out
    missing = [f"engines by {target} on A Card" for target in ("tensorrt", "cuda", "rtx")]
    assert set(found.left_out) == {str(stale), *missing}
    assert "--precision fp16 --target tensorrt" in found.left_out[missing[0]]
    assert str(stale) not in opened(Settings(preset="tiny", precisions=("fp32",))).left_out


def test_names_tell_the_runtime_and_the_target(tiny_engines: Path) -> None:
    cpu = read_manifest(tiny_engines)
    assert (label(cpu), runtime_name(cpu), on_gpu(cpu)) == ("fp32", "onnxruntime", False)
    cuda = dataclasses.replace(cpu, target="cuda", precision="fp16")
    assert (label(cuda), runtime_name(cuda), on_gpu(cuda)) == ("fp16-cuda", "onnxruntime-cuda", True)
    records = {name: dataclasses.replace(record, runtime="tensorrt_rtx") for name, record in cpu.networks.items()}
    card = dataclasses.replace(cpu, target="sm89", precision="fp8", networks=records)
    assert (label(card), runtime_name(card)) == ("fp8-sm89", "tensorrt-rtx")


def test_a_set_that_runs_on_a_gpu_gets_no_limit_of_the_processor(
    tiny_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engines = open_engines(tiny_engines, 1)
    cuda = dataclasses.replace(engines, manifest=dataclasses.replace(engines.manifest, target="cuda"))
    bench = Bench(Settings(engines=tiny_engines), Sets({"fp32-cuda": tiny_engines}, {"fp32-cuda": cuda}))

    limits(bench)

    assert bench.report["limits"] == {}
    assert bench.report["profiles"] == {}
    assert "PyTorch for CUDA" in bench.report["not_run"]["operations and limits"]


def test_options_that_would_be_ignored_are_refused(tiny_engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in (["--precision", "int8"], ["--preset", "puppet"]):
        assert cli.main(["bench", "--engines", str(tiny_engines), *extra]) == 2
        assert "leave the two out" in capsys.readouterr().err
    with pytest.raises(InputError, match="give both"):
        Settings(checkpoint=tiny_engines)
