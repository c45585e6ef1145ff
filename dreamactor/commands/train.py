"""`dreamactor train`: the recipe of a preset; called again, it goes on where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamactor.commands.common import add_preset

HELP = "train a preset's checkpoint (resumes where it stopped)"


def configure(parser: argparse.ArgumentParser) -> None:
    add_preset(parser)
    parser.add_argument("--output", type=Path, default=Path("build/train"), help="folder (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="stop after so long, everything saved")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.training.train import train

    print(train(options.preset, options.output, minutes=options.minutes))
    return 0
