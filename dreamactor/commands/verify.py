"""`dreamactor verify`: a finished set, checked and run on the inputs that it has, here or wherever it was copied."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamactor.commands.common import add_public_key, read_key

HELP = "check an engine set and compare what each engine makes of an input with FP32"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engines", type=Path, help="folder of the set")
    add_public_key(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.production.verify import verify_set

    found = verify_set(options.engines, read_key(options))
    print(found.text)
    return 0 if found.passed else 1
