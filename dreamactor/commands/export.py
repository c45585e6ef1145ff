"""`dreamactor export`: networks to ONNX, each checked against PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dreamactor.commands.common import add_checkpoint, add_preset
from dreamactor.errors import EngineError
from dreamactor.presets import Preset

if TYPE_CHECKING:
    from torch import Tensor

HELP = "networks to ONNX, checked against PyTorch"


def configure(parser: argparse.ArgumentParser) -> None:
    add_preset(parser)
    add_checkpoint(parser)
    parser.add_argument("--output", type=Path, default=Path("build/onnx"), help="folder (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor import networks, paths
    from dreamactor.export.onnx import export_all
    from dreamactor.export.parity import check_export, format_parity
    from dreamactor.presets import preset

    weights: Mapping[str, Tensor]
    sizes = preset(options.preset)
    source = options.checkpoint or paths.checkpoint(options.preset)
    if source is None:
        if lacking := _lacking(sizes):
            raise EngineError(f"Random weights are made in memory: {lacking}.")
        print(f"No checkpoint for '{options.preset}': exporting random weights.")
        weights = networks.build(sizes).state_dict()
    else:
        weights = stored = networks.StoredWeights(source, sizes)
        stored.require_finite()
        sizes = stored.preset
    files = export_all(sizes, weights, options.output, on_start=lambda name: print(f"exporting {name}", flush=True))
    if lacking := _lacking(sizes):
        print(f"Not compared with PyTorch, which has its weights in memory: {lacking}.")
        return 0
    rows = check_export(networks.load(source, sizes) if source else networks.build(sizes), files)
    print(format_parity(rows))
    return 0 if all(row.passed for row in rows) else 1


def _lacking(sizes: Preset) -> str:
    """What FP32 weights of this size take and what there is, where that is less; "" where it is not."""
    from dreamactor.production.plan import available_memory, weight_bytes

    needed, there = weight_bytes(sizes), available_memory()
    if there is None or needed < there:
        return ""
    return f"they take {needed / 2**30:.1f} GiB, and {there / 2**30:.1f} GiB are available"
