"""The sections that start processes or need what is not everywhere: scaling, the service, the outside reference."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamactor.benchmark import memory, scaling, schema, sections
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.compare import compare
from dreamactor.benchmark.engine_sets import Sets
from dreamactor.benchmark.html import write_html
from dreamactor.benchmark.outside import wan_animate
from dreamactor.benchmark.plots import report_charts
from dreamactor.benchmark.run import run
from dreamactor.benchmark.scaling import engine_curves, memory_curves
from dreamactor.benchmark.service import load_service
from dreamactor.benchmark.session_settings import CHANGES
from dreamactor.benchmark.session_settings import compare as compare_settings
from dreamactor.benchmark.settings import Settings
from dreamactor.benchmark.table import print_table
from dreamactor.benchmark.timing import Timing, interleave
from dreamactor.benchmark.torch_engines import Place
from dreamactor.benchmark.trace import STAGES
from dreamactor.engines import Engines, open_engines
from dreamactor.engines.session import Array
from dreamactor.errors import DreamActorError, EngineError, InputError
from dreamactor.interfaces import Size
from dreamactor.presets import preset

WAN = "WanAnimateTransformer3DModel"


@pytest.fixture(scope="module")
def engines(tiny_engines: Path) -> Engines:
    return open_engines(tiny_engines)


@pytest.fixture
def bench(tiny_engines: Path, engines: Engines) -> Bench:
    return Bench(Settings(engines=tiny_engines, quick=True), Sets({"fp32": tiny_engines}, {"fp32": engines}))


class UpToSize:
    """A session that takes only up to so many latent frames: a TensorRT engine was built for no more, or a GPU's memory
    ends."""

    def __init__(self, inner: Any, most: int, error: type[DreamActorError]) -> None:
        self.inner, self.name, self.most, self.error = inner, inner.name, most, error

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs["latent"].shape[2] > self.most:
            raise self.error(f"no more than {self.most}")
        outputs: dict[str, Array] = self.inner.run(inputs)
        return outputs


class Seen:
    """A session that keeps what it was given."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.latents = inner, list[bytes]()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.latents.append(inputs["latent"].tobytes())
        outputs: dict[str, Array] = self.inner.run(inputs)
        return outputs


def test_engines_are_given_new_numbers_in_every_run(bench: Bench) -> None:
    seen = Seen(bench.main.session("denoiser"))
    alone = dataclasses.replace(bench.main, sessions={"denoiser": seen})
    run_twice = Bench(bench.settings, Sets(bench.sets.folders, {"fp32": alone}))
    for block in range(2):
        sections.engines(run_twice, block)
    measured = len(run_twice.timings["engine/denoiser/fp32"].samples)
    assert measured == 2 * bench.settings.each_moment
    assert len(seen.latents) == measured + 2  # a warm-up for each block
    assert len(set(seen.latents)) >= measured


def test_curves_of_the_engines(engines: Engines) -> None:
    curves, refused = engine_curves(engines, rounds=2, quick=True)
    assert [curve.title for curve in curves] == [
        "denoiser / frames", "denoiser / pixels", "denoiser / references", "vae_decoder / frames",
    ]  # fmt: skip
    assert refused == {}
    for curve in curves:
        assert [len(rounds) for rounds in curve.samples] == [2] * len(curve.sizes)
        assert min(curve.values) > 0
    assert curves[0].sizes == (5, 13, 25)


@pytest.mark.parametrize("error", [InputError, EngineError])
def test_sizes_that_an_engine_refuses_are_left_out_and_the_others_measured(
    engines: Engines, error: type[DreamActorError]
) -> None:
    narrow = {name: UpToSize(session, 4, error) for name, session in engines.sessions.items()}
    curves, refused = engine_curves(Engines(engines.preset, engines.manifest, narrow), rounds=2, quick=True)
    assert [curve.sizes for curve in curves if curve.axis == "frames"] == [(5, 13), (5, 13)]
    lengths = ("time of denoiser at 25 frames", "time of vae_decoder at 25 frames")
    assert refused == dict.fromkeys(lengths, "no more than 4")
    none = {name: UpToSize(session, 2, error) for name, session in engines.sessions.items()}
    curves, refused = engine_curves(Engines(engines.preset, engines.manifest, none), rounds=2, quick=True)
    assert curves == []
    assert len(refused) == 8


def test_a_probe_that_fails_does_not_lose_the_curves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def probed(*arguments: object, **options: object) -> memory.Peak:
        raise DreamActorError("killed")

    monkeypatch.setattr(memory, "probe", probed)
    monkeypatch.setattr(scaling, "interleave", lambda cases, rounds: interleave(cases, 1, warmup=0))
    sections.time_scaling(bench)
    with pytest.raises(DreamActorError, match="killed"):
        sections.memory_scaling(bench)
    curves = bench.report["scaling"]["curves"]
    engines = {"denoiser / frames", "denoiser / pixels", "denoiser / references", "vae_decoder / frames"}
    assert set(curves) == {*engines, "pipeline / steps"}
    assert curves["pipeline / steps"]["sizes"] == [2, 4]
    assert min(curves["pipeline / steps"]["values"]) > 0


@pytest.mark.skipif(not find_spec("diffusers"), reason="needs diffusers: make bench installs it")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_outside_reference_computes_in_the_engines_type(dtype: str) -> None:
    tiny = preset("tiny")
    found = wan_animate(tiny, Size.of(tiny), Place("cpu", dtype))()
    assert found.dtype == getattr(torch, dtype)
    assert found.isfinite().all()
    assert found.shape[0] == Size.of(tiny).batch


def test_the_outside_reference_is_compared_or_said_not_to_be_there(
    tiny_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(engines=tiny_engines, quick=True, sections=("outside",))
    if find_spec("diffusers"):
        found = run(settings, print)
        assert found["failed"] == {}
        assert found["peers"][WAN]["theirs_over_ours"]["value"] > 0
        assert found["peers"][WAN]["device"] == "cpu"
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as where it is not installed
    found = run(settings, print)
    assert found["failed"] == {}
    assert WAN not in found["peers"]
    assert "pip install 'dreamactor[bench]'" in found["not_run"]["diffusers' network of equal size"]


def test_every_setting_of_a_session_can_be_asked_for(tiny_engines: Path) -> None:
    found = compare_settings(tiny_engines, "vae_decoder", rounds=2)
    assert set(found) == {*CHANGES, "inputs and outputs bound once"}
    assert {"no memory pattern", "one thread", "no graph optimisation"} <= set(found)
    assert all(speed.value > 0 for speed in found.values())


def test_exponents_and_the_devices_memory_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    power, nothing = {"value": 0.97, "low": 0.9, "high": 1.04}, {"value": 0.2, "low": -1.2, "high": None}
    curve = {"axis": "callers", "sizes": [1, 2], "values": [1.0, 2.0], "samples": [[1.0], [2.0]], "exponent": power}
    peaks = [memory.Peak(n, 400_000_000, 500_000_000 + n, 1.0, 10**9, 10**9 + 7_000_000 * n) for n in (25, 49)]
    fit = {"constant": 1e6, "factor": 1e4, "idle": 4e8, "from": 25, "exponent": power}
    found = schema.empty() | {
        "environment": {"processor": "x", "cores": 1, "gpu": {"name": "A Card"}},
        "settings": {"preset": "tiny", "targets": {"fp16-cuda": "cuda"}},
        "scaling": {
            "curves": {"service / callers": curve}, "peaks": [peak.to_dict() for peak in peaks], "memory": fit,
            "memory_curves": {
                "references": {"sizes": [1, 2], "bytes": [10**6, 2 * 10**6], "exponent": power},
                "callers": {"sizes": [1.0, 4.0], "bytes": [8 * 10**8, 9 * 10**8], "exponent": nothing},
            },
            "longest_clip": {"frames_by_memory": 9000, "frames_by_cap": 1800},
        },
    }  # fmt: skip

    print_table(found)
    printed, page = capsys.readouterr().out, write_html(found)

    for text in (printed, page):
        assert "tiny on A Card" in text
        assert "time of service against callers" in text
        assert "memory of a clip against references" in text
        assert "1, 2 MB at 1, 2; n^0.97 [0.900, 1.040]" in text
        assert "memory of the server against callers" in text
        assert "800, 900 MB at 1, 4; no power is told by so few" in text
    assert "9000 frames by this machine's memory, 1800 by the cap on input" in printed
    assert "<td class=n>1000</td><td class=n>1343</td><td class=n>343</td>" in page
    (drawn,) = [chart for chart in report_charts(found) if chart.name == "memory"]
    assert "whole GPU, most" in drawn.drawing.svg()
    assert "GPU, most less idle" in drawn.drawing.svg()


def test_a_slower_machine_slows_the_stages_and_not_the_build(bench: Bench) -> None:
    for block in range(2):
        sections.stages(bench, block)
    names = {*(f"stage/{stage}" for stage in STAGES), "step/denoiser"}
    assert set(bench.timings) == names
    assert {len(timing.blocks()) for timing in bench.timings.values()} == {2}

    def scaled(factor: float) -> dict[str, Any]:
        taken = {
            name: Timing(
                tuple(
                    dataclasses.replace(sample, seconds=factor * sample.seconds, yardstick=factor * sample.yardstick)
                    for sample in timing.samples
                )
            )
            for name, timing in bench.timings.items()
        }
        return {"timings": {name: timing.to_dict() for name, timing in taken.items()}}

    assert not {row.verdict for row in compare(scaled(1.0), scaled(1.1))} & {"slower", "faster"}


@pytest.mark.slow
def test_growth_of_time_and_memory(bench: Bench) -> None:
    bench.report["scaling"] = {"curves": {"service / callers": {}}}
    sections.time_scaling(bench)
    sections.memory_scaling(bench)
    found = bench.report["scaling"]
    assert {"service / callers", "pipeline / steps", "pipeline / frames"} <= set(found["curves"])
    assert found["memory"]["exponent"]["value"] > 0
    assert bench.report["summary"]["memory_exponent"] == found["memory"]["exponent"]


@pytest.mark.slow
def test_memory_against_references_steps_and_pixels(tiny_engines: Path, engines: Engines) -> None:
    found, refused = memory_curves(tiny_engines, engines.preset, references=8, quick=True)
    sizes = {"references": [1, 4], "steps": [1, 4], "pixels": [32 * 32, 64 * 64]}
    assert {axis: curve["sizes"] for axis, curve in found.items()} == sizes
    assert all(size > 0 for curve in found.values() for size in curve["bytes"])
    assert refused == {}


def test_a_size_that_a_set_does_not_take_is_left_out_of_memorys_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    def probed(engines: Path, frames: int, percent: int = 100, **options: int) -> memory.Peak:
        if percent != 100:
            raise DreamActorError("built for one size")
        return memory.Peak(frames, 10, 10 + sum(options.values()), 1.0)

    monkeypatch.setattr(memory, "probe", probed)
    found, refused = memory_curves(Path("set"), preset("puppet"), references=2, quick=False)
    assert {axis: curve["sizes"] for axis, curve in found.items()} == {"references": [1, 2], "steps": [1, 2, 4]}
    assert refused == dict.fromkeys(("memory at 4096 pixels", "memory at 36864 pixels"), "built for one size")


@pytest.mark.slow
@pytest.mark.server
def test_the_service_is_loaded_and_compared_with_the_process(bench: Bench) -> None:
    load_service(bench)

    service = bench.report["service"]
    assert {load["kind"] for load in service["loads"]} == {"closed", "open"}
    assert [load["failed"] for load in service["loads"]] == [0] * len(service["loads"])
    assert {f"service/{name}" for name in ("in process", "triton", "plain gRPC")} == set(bench.timings)
    assert bench.report["summary"]["served_overhead"]["value"] > -1
    assert {share["model"] for share in service["statistics"]} >= {"dreamactor", "denoiser"}
    assert bench.report["scaling"]["curves"]["service / callers"]["sizes"] == [1, 2, 4]
