"""The arguments of `dreamactor bench`; nothing slow is imported until it runs."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

from dreamactor.benchmark.settings import SECTIONS, Settings
from dreamactor.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the harness's options and its `compare` to a parser; sets `run` on what it parses."""
    parser.add_argument("--preset", help="tiny, puppet or m1 (default: puppet)")
    parser.add_argument("--precision", action="append", help="repeatable (default: fp32 and every one that is built)")
    parser.add_argument("--engines", type=Path, help="engine set to measure instead of the preset's")
    parser.add_argument("--checkpoint", type=Path, help="what that set was built from, unless it ships or is random")
    parser.add_argument(
        "--output", type=Path, default=Settings.output,
        help="folder for report.json, report.html and plots/ (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--only", help=f"comma-separated sections: {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes: a look in a few minutes")
    parser.add_argument(
        "--minutes", type=_above_zero, default=Settings.minutes,
        help="begin no section after so many minutes, building not counted (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="cores to use (default: all)")
    parser.add_argument(
        "--rates", type=_rates, metavar="R,R,...",
        help="requests a second of the service's open loops (default: 0.5, 0.8 and 1.2 of what it can do)",
    )  # fmt: skip
    harness = vars(parser.parse_args([]))
    parser.set_defaults(run=_run)
    actions = parser.add_subparsers(
        title="also", metavar="compare A B", required=False,
        help="two reports, or two engine sets measured in turn: faster, slower, no difference",
    )  # fmt: skip
    compare = actions.add_parser("compare")
    compare.add_argument("before", type=Path, metavar="A", help="a report or its folder, or that of an engine set")
    compare.add_argument("after", type=Path, metavar="B", help="the same of the later one")
    compare.add_argument(
        "--threshold", type=_above_zero, default=5.0, metavar="PERCENT",
        help="a slowdown beyond this ends with status 1 (default: %(default)s)",
    )  # fmt: skip
    compare.set_defaults(run=partial(_compare, harness=harness))


def _run(options: argparse.Namespace) -> int:
    from dreamactor.benchmark.run import main

    precisions = tuple(options.precision) if options.precision else None
    sections = None if options.only is None else tuple(part.strip() for part in options.only.split(","))
    return main(
        Settings(
            preset=options.preset, precisions=precisions, engines=options.engines, checkpoint=options.checkpoint,
            output=options.output, sections=sections, quick=options.quick, minutes=options.minutes,
            threads=options.threads, rates=options.rates,
        )
    )  # fmt: skip


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return number


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(_above_zero, text.split(",")))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"'{text}' are no rates: {error}; give them as in 0.5,1,2") from error


def _compare(options: argparse.Namespace, harness: dict[str, Any]) -> int:
    """`harness` has the defaults of the harness's own options, which mean nothing here."""
    given = [f"--{name}" for name, default in harness.items() if getattr(options, name) != default]
    if given:
        raise InputError(f"`dreamactor bench compare` takes no option but --threshold: leave {', '.join(given)} out.")
    from dreamactor.benchmark.compare import main

    return main(options.before, options.after, options.threshold / 100)
