"""`dreamactor verify`: a finished set, checked and run beside ONNX Runtime FP32 on stored inputs."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamactor.commands.common import add_public_key, read_key

HELP = "check an engine set and run each engine beside FP32"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engines", type=Path, help="folder of the set")
    add_public_key(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.production.verify import verify_set

    passed, table = verify_set(options.engines, read_key(options))
    print(table)
    return 0 if passed else 1
