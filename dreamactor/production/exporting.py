"""Networks of one checkpoint to ONNX; large ones in a process of their own, which takes its memory with it.

PyTorch's exporter holds on to the weights it has seen for as long as its process lives.
"""

from __future__ import annotations

import functools
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from dreamactor.errors import EngineError
from dreamactor.presets import Preset

if TYPE_CHECKING:
    from dreamactor.networks import Networks


class Exporter:
    """`checkpoint` None means random weights. What it loaded is kept for the next network until `close`."""

    def __init__(self, checkpoint: Path | None, preset: Preset) -> None:
        self._checkpoint, self._preset = checkpoint, preset
        self._networks: Networks | None = None
        self._process: ProcessPoolExecutor | None = None

    def export(self, network: str, path: Path) -> None:
        """Writes `network` to `path`; raises EngineError where the system ends the process that does it."""
        if self._is_large():
            self._process = self._process or ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            try:
                self._process.submit(_export, self._checkpoint, self._preset, network, path).result()
            except BrokenProcessPool as error:
                self.close()
                raise EngineError(
                    f"The process that exported {network} was ended from outside, most likely for want of memory: "
                    "close other programs, or use a machine with more memory."
                ) from error
        else:
            from dreamactor.export.onnx import export_network

            self._networks = self._networks or _load(self._checkpoint, self._preset)
            export_network(self._networks, network, path)

    def close(self) -> None:
        """Lets go of the weights."""
        self._networks = None
        if self._process is not None:
            self._process.shutdown()
            self._process = None

    def _is_large(self) -> bool:
        from dreamactor.export.weights import LARGE
        from dreamactor.networks import build_meta

        return 4 * sum(build_meta(self._preset).parameter_counts().values()) > LARGE


def _load(checkpoint: Path | None, preset: Preset) -> Networks:
    from dreamactor import networks

    return networks.load(checkpoint, preset) if checkpoint else networks.build(preset)


_load_once = functools.cache(_load)


def _export(checkpoint: Path | None, preset: Preset, network: str, path: Path) -> None:
    """In the other process, which exports one checkpoint and ends."""
    from dreamactor.export.onnx import export_network

    export_network(_load_once(checkpoint, preset), network, path)
