"""`dreamactor serve`: an engine set behind Triton Inference Server."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamactor.commands.common import add_limits, add_precision, add_preset, add_public_key, limits_of, read_key

HELP = "an engine set behind Triton Inference Server"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engines", type=Path, help="engine set (default: built from --preset and --precision)")
    add_preset(parser)
    add_precision(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=8002)
    add_public_key(parser)
    add_limits(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.build import build_set
    from dreamactor.serving.launcher import ServeOptions, serve
    from dreamactor.serving.process import Listen

    engines = options.engines or build_set(options.preset, options.precision)
    listen = Listen(options.host, options.grpc_port, options.http_port, options.metrics_port)
    asked = ServeOptions(engines, listen, limits=limits_of(options), public_key=read_key(options))
    return serve(asked, say=lambda line: print(line, flush=True))
