"""The peers section: every built precision and both PyTorch peers through one pipeline, and who differs left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dreamactor.benchmark import rivals
from dreamactor.benchmark.inputs import media
from dreamactor.benchmark.run import Bench, Settings
from dreamactor.engines import Engines, open_engines
from dreamactor.engines.session import Array
from dreamactor.motion.prepare import prepare
from dreamactor.pipeline import Options


def bench(folder: Path) -> Bench:
    """Two sets of one preset; the second stands for another precision."""
    sets = {"fp32": open_engines(folder, 1), "int8": open_engines(folder, 1)}
    return Bench(Settings(quick=True, threads=1), dict.fromkeys(sets, folder), sets)


@pytest.mark.slow
def test_every_precision_is_compared_with_both_peers(tiny_engines: Path) -> None:
    found = bench(tiny_engines)

    rivals.compare_peers(found)

    names = {"onnxruntime", "int8", "eager", "compile"}
    for group in ("pipeline", "networks"):
        assert {name.split("/")[1] for name in found.timings if name.startswith(group + "/")} == names
    assert found.report["not_run"] == {}
    assert found.report["peers"]["int8"]["video_psnr_db"] == 100
    for rival in ("eager", "compile"):
        for suffix in ("", "_int8"):
            assert found.report["summary"][f"pipeline_speedup_over_{rival}{suffix}"]["value"] > 0
            assert found.report["peers"][rival][f"networks_speedup{suffix}"]["value"] > 0


def test_a_precision_whose_video_differs_gets_no_figure(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, given = bench(tiny_engines), media()
    preset = found.main.preset
    inputs = prepare([given.reference], given.driving, preset.height, preset.width, preset.fps, max_frames=5)
    run, spoilt = rivals.run_networks, found.sets["int8"]

    def networks(engines: Engines, *rest: object) -> Array:
        frames: Array = run(engines, inputs, Options(max_frames=5, steps=1))
        return np.uint8(255) - frames if engines is spoilt else frames

    monkeypatch.setattr(rivals, "run_networks", networks)
    assert rivals._precisions(found, inputs, Options()) == {}
    assert "30 are wanted" in found.report["not_run"]["pipeline in int8"]
