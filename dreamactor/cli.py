"""The `dreamactor` command: finds the command, runs it, and says in a sentence what went wrong."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from dreamactor import __version__
from dreamactor.commands import animate, build, doctor, engines, evaluate, export, serve, train, verify
from dreamactor.errors import guarded

COMMANDS = {
    "doctor": doctor, "export": export, "build": build, "verify": verify, "engines": engines, "serve": serve,
    "animate": animate, "train": train, "eval": evaluate,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 for a failure, 2 for input that cannot be used, 130 when interrupted, 141
    where the reader of its output has gone."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may have what this terminal has not
    return guarded(lambda: options.run(options), "dreamactor")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dreamactor", description="Human animation: from checkpoint to served engines."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.configure(commands.add_parser(name, help=command.HELP))
    from dreamactor.benchmark import command as bench

    bench.configure(commands.add_parser("bench", help="how fast is each engine, each stage, the whole"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
