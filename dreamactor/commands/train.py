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
    parser.add_argument("--recipe", default="whole", help="whole, or further: on from a checkpoint (default: whole)")
    parser.add_argument("--from", dest="start", type=Path, help="checkpoint to begin a new run with (default: random)")
    parser.add_argument("--stage-seconds", type=float, help="how long a recipe of timed stages takes in all")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.training.recipe import recipe
    from dreamactor.training.train import train

    chosen = recipe(options.preset, options.recipe)
    if options.stage_seconds is not None:
        chosen = chosen.lasting(options.stage_seconds)
    print(train(options.preset, options.output, chosen, options.minutes, start=options.start))
    return 0
