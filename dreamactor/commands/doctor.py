"""`dreamactor doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import argparse

HELP = "what this machine can run, and what is missing"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.doctor import examine

    for finding in examine():
        print(f"{'ok ' if finding.ok else '-- '} {finding.subject:24s} {finding.found}")
        if finding.remedy:
            print(f"    {'':24s} -> {finding.remedy}")
    return 0
