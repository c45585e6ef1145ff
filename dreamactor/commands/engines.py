"""`dreamactor engines`: what the engine store holds, making room, and signing a set."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dreamactor import paths
from dreamactor.errors import InputError

if TYPE_CHECKING:
    from dreamactor.engines.store import Entry

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
        action.add_argument("--store", type=Path, default=paths.STORE, help="default: %(default)s")


def run_list(options: argparse.Namespace) -> int:
    from dreamactor.engines.store import Store

    for manifest in sorted(options.store.parent.glob("*/manifest.json")):
        size = sum(path.stat().st_size for path in manifest.parent.iterdir() if path.is_file())
        print(f"set    {manifest.parent.name:32s} {size / 1e6:8.1f} MB")
    kinds: dict[str, list[Entry]] = {}
    for entry in Store(options.store).entries():
        kinds.setdefault(entry.kind, []).append(entry)
    for kind, entries in sorted(kinds.items()):
        newest, oldest = ((time.time() - entry.used) / 86400 for entry in (entries[0], entries[-1]))
        used = f"last used {newest:.1f} to {oldest:.1f} days ago"
        print(f"store  {f'{kind}, {len(entries)} entries':32s} {_megabytes(entries):8.1f} MB  {used}")
    if left := Store(options.store).left():
        size = sum(path.stat().st_size for folder in left for path in folder.rglob("*") if path.is_file())
        print(f"store  {'left by killed builds':32s} {size / 1e6:8.1f} MB  'dreamactor engines prune' removes it")
    print(f"store  {'in all':32s} {_megabytes(chain(*kinds.values())):8.1f} MB")
    return 0


def _megabytes(entries: Iterable[Entry]) -> float:
    return sum(entry.bytes for entry in entries) / 1e6


def run_prune(options: argparse.Namespace) -> int:
    from dreamactor.engines.set_writing import tidy
    from dreamactor.engines.store import Store
    from dreamactor.files import locked

    if not (options.keep >= 0 and options.older_than >= 0):
        raise InputError("--keep and --older-than must be 0 or more.")
    if options.store.parent.is_dir():  # where the sets lie
        with locked(options.store.parent):
            tidy(options.store.parent)
    removed = Store(options.store).prune(options.keep, options.older_than)
    print(f"removed {len(removed)} entries, {_megabytes(removed):.1f} MB")
    return 0


def run_sign(options: argparse.Namespace) -> int:
    from dreamactor.engines.sets import read_manifest
    from dreamactor.engines.trust import sign
    from dreamactor.files import read_file

    read_manifest(options.engines)  # refuses a folder that is no set
    print(sign(options.engines, read_file(options.private_key, "private key")))
    return 0
