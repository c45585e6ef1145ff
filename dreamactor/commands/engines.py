"""`dreamactor engines`: what the engine store holds, and making room."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "what the engine store holds; prune what is old"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="list | prune")
    listing = actions.add_parser("list", help="sets, and what the store keeps for them")
    listing.set_defaults(run=run_list)
    prune = actions.add_parser("prune", help="remove the least recently used")
    prune.add_argument("--keep", type=int, default=0, help="entries to keep whatever their age (default: %(default)s)")
    prune.add_argument("--older-than", type=float, default=30.0, metavar="DAYS", help="default: %(default)s")
    prune.set_defaults(run=run_prune)
    for action in (listing, prune):
        action.add_argument("--store", type=Path, default=Path("build/engines/store"), help="default: %(default)s")


def run_list(options: argparse.Namespace) -> int:
    from dreamactor.engines.store import Store

    for manifest in sorted(options.store.parent.glob("*/manifest.json")):
        size = sum(path.stat().st_size for path in manifest.parent.iterdir() if path.is_file())
        print(f"set    {manifest.parent.name:32s} {size / 1e6:8.1f} MB")
    for entry in Store(options.store).entries():
        print(f"store  {entry.folder.parent.name}/{entry.folder.name:24s} {entry.bytes / 1e6:8.1f} MB")
    return 0


def run_prune(options: argparse.Namespace) -> int:
    from dreamactor.engines.store import Store

    removed = Store(options.store).prune(options.keep, options.older_than)
    print(f"removed {len(removed)} entries, {sum(entry.bytes for entry in removed) / 1e6:.1f} MB")
    return 0
