"""The peers section: every built precision and both PyTorch peers through one pipeline, and who differs left out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamactor import networks
from dreamactor.benchmark import peers, torch_engines
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.engine_sets import Sets
from dreamactor.benchmark.inputs import media
from dreamactor.benchmark.settings import Settings
from dreamactor.benchmark.timing import Sample, Timing, interleave
from dreamactor.engines import Engines, Manifest, Session, open_engines
from dreamactor.engines.session import Array
from dreamactor.errors import InputError, MissingDependency
from dreamactor.export.graphs import graph
from dreamactor.interfaces import Size, random_inputs
from dreamactor.motion.prepare import prepare
from dreamactor.networks import build, save
from dreamactor.pipeline import Options
from dreamactor.presets import preset


def bench(folder: Path) -> Bench:
    """Two sets of one preset; the second stands for another precision."""
    sets = {"fp32": open_engines(folder, 1), "int8": open_engines(folder, 1)}
    return Bench(Settings(quick=True), Sets(dict.fromkeys(sets, folder), sets))


@pytest.mark.slow
def test_every_precision_is_compared_with_both_peers(tiny_engines: Path) -> None:
    found = bench(tiny_engines)

    peers.compare_peers(found)

    names = {"onnxruntime", "int8", "eager", "compile"}
    for group in ("pipeline", "networks"):
        assert {name.split("/")[1] for name in found.timings if name.startswith(group + "/")} == names
    assert found.report["not_run"] == {}
    assert found.report["peers"]["int8"]["video_psnr_db"] == 100
    for kind in ("eager", "compile"):
        for suffix in ("", "_int8"):
            assert found.report["summary"][f"pipeline_speedup_over_{kind}{suffix}"]["value"] > 0
            assert found.report["peers"][kind][f"networks_speedup{suffix}"]["value"] > 0


def test_a_precision_whose_video_differs_gets_no_figure(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, given = bench(tiny_engines), media()
    preset = found.main.preset
    inputs = prepare([given.reference], given.driving, preset, max_frames=5)
    run, spoilt = peers.animate, found.sets.opened["int8"]

    def networks(sessions: Mapping[str, Session], *rest: object) -> Array:
        frames: Array = run(sessions, preset, inputs, Options(max_frames=5, steps=1))
        return np.uint8(255) - frames if sessions is spoilt.sessions else frames

    monkeypatch.setattr(peers, "animate", networks)
    assert peers._precisions(found, inputs, Options()) == {}
    assert "30 are needed" in found.report["not_run"]["pipeline in int8"]


def with_weights(manifest: Manifest, digest: str) -> Manifest:
    records = {name: dataclasses.replace(record, weights_sha256=digest) for name, record in manifest.networks.items()}
    return dataclasses.replace(manifest, networks=records)


def test_peers_have_the_weights_of_the_set_or_do_not_run(tiny_engines: Path, tmp_path: Path) -> None:
    engines = open_engines(tiny_engines, 1)
    manifest = engines.manifest
    assert torch_engines.checkpoint_of(manifest) is None  # the random weights

    save(build(engines.preset, seed=1), tmp_path)
    own = with_weights(manifest, torch_engines._weights(engines.preset, tmp_path))
    assert torch_engines.checkpoint_of(own, tmp_path) == tmp_path
    with pytest.raises(InputError, match="not built from the shipped checkpoint or random weights"):
        torch_engines.checkpoint_of(own)
    with pytest.raises(InputError, match=f"not built from {tmp_path}"):
        torch_engines.checkpoint_of(manifest, tmp_path)
    with pytest.raises(InputError, match="is no checkpoint, for it has no"):
        torch_engines.checkpoint_of(manifest, tmp_path / "nothing")

    found = Bench(Settings(engines=tiny_engines), Sets({"fp32": tiny_engines}, {"fp32": engines}))
    with ExitStack() as inside:
        assert peers._peers(found, dataclasses.replace(engines, manifest=own), inside) == {}
    assert set(found.report["not_run"]) == {"peer eager", "peer compile"}
    assert "--checkpoint" in found.report["not_run"]["peer eager"]


def test_a_checkpoint_that_is_not_the_sets_is_said_before_anything_is_measured(
    tiny_engines: Path, tmp_path: Path
) -> None:
    from dreamactor.benchmark.run import run

    save(build(open_engines(tiny_engines, 1).preset, seed=1), tmp_path)
    with pytest.raises(InputError, match="was not built from"):
        run(Settings(engines=tiny_engines, checkpoint=tmp_path), print)


def test_peers_run_where_the_set_runs(tiny_engines: Path) -> None:
    engines = open_engines(tiny_engines, 1)
    assert torch_engines.Place.beside(engines.manifest) == torch_engines.Place("cpu", "float32")
    on_gpu = dataclasses.replace(engines.manifest, target="tensorrt", precision="fp16")
    if torch.cuda.is_available():
        assert torch_engines.Place.beside(on_gpu) == torch_engines.Place("cuda", "float16")
        return
    with pytest.raises(MissingDependency, match="runs on the GPU and this PyTorch"):
        torch_engines.Place.beside(on_gpu)
    found = Bench(Settings(engines=tiny_engines), Sets({"fp16-tensorrt": tiny_engines}, {"fp16-tensorrt": engines}))
    with ExitStack() as inside:
        assert peers._peers(found, dataclasses.replace(engines, manifest=on_gpu), inside) == {}
    assert set(found.report["not_run"]) == {"peer eager-cuda", "peer compile-cuda"}


def test_a_half_type_is_computed_in_and_arrays_come_back(tiny_engines: Path) -> None:
    engines = open_engines(tiny_engines, 1)
    half = torch_engines.eager(engines, torch_engines.Place("cpu", "bfloat16"))
    for name, bound in (("denoiser", torch_engines.RELATIVE_BOUND), ("vae_decoder", torch_engines.PIXEL_BOUND)):
        given = random_inputs(engines.preset, name, Size.of(engines.preset), 1)
        ours, theirs = engines.session(name).run(given), half.session(name).run(given)
        row = torch_engines.compare_outputs(name, ours, theirs)
        assert 1e-4 < row.difference < bound
        assert {value.dtype for value in theirs.values()} == {value.dtype for value in ours.values()}


def test_weights_are_cast_once_and_timesteps_and_statistics_not() -> None:
    model, seen = build(preset("tiny")), list[object]()
    torch_engines.move(model, torch_engines.Place("cpu", "bfloat16"))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert (model.vae.shift.dtype, model.vae.scale.dtype) == (torch.float32, torch.float32)

    model.transformer.register_forward_pre_hook(lambda module, given: seen.extend(x.dtype for x in given))
    denoiser = graph(model, "denoiser")
    outputs = denoiser.module(**denoiser.inputs)
    assert seen == [torch.bfloat16, torch.float32, *4 * [torch.bfloat16]]
    assert {output.dtype for output in outputs} == {torch.float32}


def test_eager_and_compiled_share_a_model_that_is_loaded_once(
    tiny_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, loads = bench(tiny_engines), list[object]()
    monkeypatch.setattr(networks, "build", lambda given: loads.append(given) or build(given))
    eager = torch_engines.eager(found.main, torch_engines.Place())
    for name, session in torch_engines.compiled(eager).sessions.items():
        compiled, own = session._module, eager.session(name)._module
        assert compiled is not own
        assert next(compiled.parameters()) is next(own.parameters())
    assert len(loads) == 1

    monkeypatch.setattr(torch, "compile", lambda module, dynamic: module)  # the compiler takes minutes
    with ExitStack() as inside:
        assert set(peers._peers(found, found.main, inside)) == {"eager", "compile"}
    assert len(loads) == 2


def test_engines_are_grouped_with_the_peers_of_their_device(
    tiny_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = open_engines(tiny_engines, 1)
    on_gpu = dataclasses.replace(
        engines, manifest=dataclasses.replace(engines.manifest, target="cuda", precision="fp16")
    )
    found = Bench(Settings(), Sets({}, {"fp32": engines, "fp16-cuda": on_gpu}))
    asked: list[Engines] = []
    monkeypatch.setattr(peers, "_peers", lambda bench, ours, inside: asked.append(ours) or {})
    with ExitStack() as inside:
        groups = peers._groups(found, {"onnxruntime": engines, "fp16-cuda": on_gpu}, inside)
    assert [list(group.ours) for group in groups] == [["onnxruntime"], ["fp16-cuda"]]
    assert asked == [engines, on_gpu]


def test_a_speedup_is_the_peers_time_over_ours(tiny_engines: Path) -> None:
    found = bench(tiny_engines)
    groups = [peers.Group({"onnxruntime": found.main, "int8": found.sets.opened["int8"]}, {"eager": found.main})]
    found.report["peers"]["eager"] = {}

    def took(**seconds: float) -> dict[str, Timing]:
        """Seven rounds on a machine that slows down."""
        return {
            name: Timing(tuple(Sample(each * (1 + turn), 0.0, 1.0) for turn in range(7)))
            for name, each in seconds.items()
        }

    peers._speedups(found, groups, took(onnxruntime=2, int8=1, eager=3), took(onnxruntime=1, int8=0.5, eager=2))

    summary = found.report["summary"]
    assert summary["pipeline_speedup_over_eager"]["value"] == pytest.approx(1.5)
    assert summary["pipeline_speedup_over_eager_int8"]["low"] == pytest.approx(3)
    assert summary["pipeline_speedup_over_compile"] is None
    alone = found.report["peers"]["eager"]
    assert [alone[key]["value"] for key in ("networks_speedup", "networks_speedup_int8")] == pytest.approx([2, 4])


def test_a_peer_that_breaks_leaves_the_other(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*arguments: object, **options: object) -> object:
        raise RuntimeError("no C++ compiler\nand a page more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    found = bench(tiny_engines)
    with ExitStack() as inside:
        assert set(peers._peers(found, found.main, inside)) == {"eager"}
    assert found.report["not_run"] == {"peer compile": "PyTorch failed with RuntimeError: no C++ compiler"}


def test_without_pytorch_the_precisions_are_compared_still(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench(tiny_engines)
    monkeypatch.setattr(peers, "interleave", lambda cases, rounds: interleave(cases, 1, warmup=0))
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed

    peers.compare_peers(found)

    assert {"pipeline/onnxruntime", "pipeline/int8"} <= set(found.timings)
    assert "need torch" in found.report["not_run"]["peer eager"]
    assert found.report["summary"]["pipeline_speedup_over_eager"] is None
