"""`dreamactor verify`: every check of an engine set's manifest, files and machine, and what is in it."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "check an engine set: hashes, signature, versions, machine"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engines", type=Path, help="folder of the set")
    parser.add_argument("--public-key", type=Path, help="Ed25519 key that must have signed the manifest")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.commands.common import read_file
    from dreamactor.engines import open_engines

    key = read_file(options.public_key, "public key") if options.public_key else None
    with open_engines(options.engines, public_key=key) as engines:
        for name, record in engines.manifest.networks.items():
            size = sum(file.bytes for file in record.files)
            print(
                f"{name:20s} {record.precision:6s} {record.runtime} {record.runtime_version} {size / 1e6:8.1f} MB  ok"
            )
    return 0
