"""`dreamactor build`: from a checkpoint to a verified engine set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dreamactor.commands.common import add_checkpoint, add_precision, add_preset

HELP = "checkpoint to a verified engine set"


def configure(parser: argparse.ArgumentParser) -> None:
    add_preset(parser)
    add_precision(parser)
    add_checkpoint(parser)
    parser.add_argument("--target", default="cpu", help="auto, cpu, cuda, tensorrt, sm75..sm120 (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder of the set (default: build/engines/...)")
    parser.add_argument("--print-path", action="store_true", help="print only the set's folder")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.build import build_set

    log = (lambda line: print(line, file=sys.stderr, flush=True)) if options.print_path else print
    folder = build_set(options.preset, options.precision, options.target, options.checkpoint, options.output, log=log)
    if options.print_path:
        print(folder)
    return 0
