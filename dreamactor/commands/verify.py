"""`dreamactor verify`: a finished set, checked and run beside ONNX Runtime FP32 on stored inputs."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "check an engine set and run each engine beside FP32"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engines", type=Path, help="folder of the set")
    parser.add_argument("--public-key", type=Path, help="Ed25519 key that must have signed the manifest")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.commands.common import read_file
    from dreamactor.production.verify import verify_set

    key = read_file(options.public_key, "public key") if options.public_key else None
    passed, table = verify_set(options.engines, key)
    print(table)
    return 0 if passed else 1
