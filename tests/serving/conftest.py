"""One real server for the whole session, on the tiny networks at a size where a denoising step takes a while."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamactor.pipeline import Animator, Options
from dreamactor.serving import environment
from dreamactor.serving.launcher import Listen, ServeOptions, Server
from tests.conftest import ROOT

SIDE = 384
FREE = Listen(grpc_port=0, http_port=0, metrics_port=0)
OPTIONS = Options(steps=2, seed=5, max_frames=10)  # two segments


@pytest.fixture(scope="session")
def server_environment() -> Path:
    """The server's own environment, made when it is missing."""
    return environment.make(ROOT / ".venv-server").root


@pytest.fixture(scope="session")
def wide_engines(tiny_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set with a larger picture: the graphs' sizes are free, so only the manifest differs."""
    folder = tmp_path_factory.mktemp("engines") / "wide"
    shutil.copytree(tiny_engines, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["preset"].update(height=SIDE, width=SIDE)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def server(wide_engines: Path, server_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("server")))
        with Server.start(ServeOptions(wide_engines, FREE, server_environment)) as started:
            yield started


@pytest.fixture(scope="session")
def expected(wide_engines: Path, portrait: bytes, clip: bytes) -> bytes:
    """What the same request gives in this process: the measure for every request that follows a disturbance."""
    with Animator.open(wide_engines) as animator:
        return animator.animate([portrait], clip, OPTIONS)
