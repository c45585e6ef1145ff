"""`dreamactor export`: networks to ONNX, each checked against PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamactor.commands.common import add_checkpoint, add_preset

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

    sizes = preset(options.preset)
    source = options.checkpoint or paths.checkpoint(options.preset)
    model = networks.load(source, sizes) if source else networks.build(sizes)
    if source is None:
        print(f"No checkpoint for '{options.preset}': exporting random weights.")
    files = export_all(model, options.output, on_start=lambda name: print(f"exporting {name}", flush=True))
    rows = check_export(model, files)
    print(format_parity(rows))
    return 0 if all(row.passed for row in rows) else 1
