"""Shared by every room: one tiny engine set, built once from fixed random weights and kept between runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / ".assets"

if "PYTEST_XDIST_WORKER" in os.environ:  # OpenMP's threads wait busily, and the other worker waits for them
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_engines() -> Path:
    """An fp32 CPU engine set of the `tiny` preset; rebuilt when presets or weights change."""
    from dreamactor.build import build_set

    return build_set("tiny", output=ROOT / "build" / "tests" / "tiny-fp32-cpu", log=lambda line: None)


@pytest.fixture
def copied(tiny_engines: Path, tmp_path: Path) -> Path:
    """A copy of that set, to change."""
    return Path(shutil.copytree(tiny_engines, tmp_path / "set"))


@pytest.fixture(scope="session")
def tiny_onnx() -> dict[str, Path]:
    """The same networks' ONNX files as exported, before any runtime's own rewriting."""
    from dreamactor.interfaces import NETWORKS
    from dreamactor.production.request import make_request
    from dreamactor.production.stages import Stages

    stages = Stages(make_request("tiny", "fp32", "cpu"), lambda what, done, total: None)
    return {name: stages.onnx(name).paths[0] for name in NETWORKS}


@pytest.fixture(scope="session")
def portrait() -> bytes:
    """The reference photo: one person, upper body."""
    return (ASSETS / "media" / "astronaut.png").read_bytes()


@pytest.fixture(scope="session")
def clip() -> bytes:
    """The short driving clip: face and shoulders, 72 frames, with sound."""
    return (ASSETS / "media" / "single_face.mp4").read_bytes()
