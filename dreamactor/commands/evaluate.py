"""`dreamactor eval`: a checkpoint against held-out truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamactor.commands.common import add_checkpoint, add_preset
from dreamactor.errors import InputError

HELP = "a checkpoint against held-out truth: figures and a contact sheet"


def configure(parser: argparse.ArgumentParser) -> None:
    add_preset(parser)
    add_checkpoint(parser)
    parser.add_argument("--output", type=Path, default=Path("build/eval"), help="folder (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=16, help="clips of each framing (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor import paths
    from dreamactor.presets import preset

    sizes = preset(options.preset)
    source = options.checkpoint or paths.checkpoint(options.preset)
    if source is None:
        raise InputError(f"No checkpoint ships for '{options.preset}': give its folder with --checkpoint.")
    from dreamactor.training.evaluate import Settings, evaluate

    evaluate(source, options.output, Settings(clips=options.clips), preset=sizes)
    print((options.output / "report.md").read_text())
    print(f"wrote report.json, report.md and contact_sheet.png into {options.output}")
    return 0
