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
    parser.add_argument("--clips", type=int, default=8, help="clips of each framing (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor import paths
    from dreamactor.presets import preset

    sizes = preset(options.preset)
    source = options.checkpoint or paths.checkpoint(options.preset)
    if source is None:
        raise InputError(f"No checkpoint ships for '{options.preset}': give its folder with --checkpoint.")
    from dreamactor.training.evaluate import Settings, evaluate

    report = evaluate(source, options.output, Settings(clips=options.clips), preset=sizes)
    for name, value in report.items():
        if isinstance(value, float):
            print(f"{name:24s} {value:8.3f}")
    print(f"wrote {options.output / 'report.json'} and {options.output / 'contact_sheet.png'}")
    return 0
