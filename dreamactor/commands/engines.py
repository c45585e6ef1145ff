"""`dreamactor engines`: what the engine store holds, and making room."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from dreamactor.errors import InputError

HELP = "what the engine store holds; prune what is old; sign a set"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="list | prune | sign")
    listing = actions.add_parser("list", help="sets, and what the store keeps for them")
    listing.set_defaults(run=run_list)
    prune = actions.add_parser("prune", help="remove the least recently used")
    prune.add_argument("--keep", type=int, default=0, help="entries to keep whatever their age (default: %(default)s)")
    prune.add_argument(
        "--older-than", type=float, default=30.0, metavar="DAYS", help="unused for so long (default: %(default)s)"
    )
    prune.set_defaults(run=run_prune)
    sign = actions.add_parser("sign", help="sign a set's manifest with an Ed25519 key")
    sign.add_argument("engines", type=Path, help="folder of the set")
    sign.add_argument("--private-key", type=Path, required=True, help="PEM file")
    sign.set_defaults(run=run_sign)
    for action in (listing, prune):
        action.add_argument("--store", type=Path, default=Path("build/engines/store"), help="default: %(default)s")


def run_list(options: argparse.Namespace) -> int:
    from dreamactor.engines.store import Store

    for manifest in sorted(options.store.parent.glob("*/manifest.json")):
        size = sum(path.stat().st_size for path in manifest.parent.iterdir() if path.is_file())
        print(f"set    {manifest.parent.name:32s} {size / 1e6:8.1f} MB")
    total = 0
    for entry in Store(options.store).entries():
        name, days = f"{entry.folder.parent.name}/{entry.folder.name}", (time.time() - entry.used) / 86400
        print(f"store  {name:32s} {entry.bytes / 1e6:8.1f} MB  used {days:.1f} days ago")
        total += entry.bytes
    print(f"store  {'in all':32s} {total / 1e6:8.1f} MB")
    return 0


def run_prune(options: argparse.Namespace) -> int:
    from dreamactor.engines.sets import tidy
    from dreamactor.engines.store import Store

    if not (options.keep >= 0 and options.older_than >= 0):
        raise InputError("--keep and --older-than must be 0 or more.")
    if options.store.parent.is_dir():  # where the sets lie
        tidy(options.store.parent)
    removed = Store(options.store).prune(options.keep, options.older_than)
    print(f"removed {len(removed)} entries, {sum(entry.bytes for entry in removed) / 1e6:.1f} MB")
    return 0


def run_sign(options: argparse.Namespace) -> int:
    from dreamactor.commands.common import read_file
    from dreamactor.engines.sets import read_manifest
    from dreamactor.engines.trust import sign

    read_manifest(options.engines)  # refuses a folder that is no set
    print(sign(options.engines, read_file(options.private_key, "private key")))
    return 0
