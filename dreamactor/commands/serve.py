"""`dreamactor serve`: an engine set behind Triton Inference Server."""

from __future__ import annotations

import argparse

from dreamactor.commands.common import add_engines, add_limits, add_public_key, engines_of, limits_of, read_key

HELP = "an engine set behind Triton Inference Server"


def configure(parser: argparse.ArgumentParser) -> None:
    add_engines(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, default=8001, help="default: %(default)s")
    parser.add_argument("--http-port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--metrics-port", type=int, default=8002, help="default: %(default)s")
    add_public_key(parser)
    add_limits(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.serving.launcher import ServeOptions, serve
    from dreamactor.serving.process import Listen

    listen = Listen(options.host, options.grpc_port, options.http_port, options.metrics_port)
    limits, public_key = limits_of(options), read_key(options)  # before the minutes of a build
    asked = ServeOptions(engines_of(options), listen, limits=limits, public_key=public_key)
    return serve(asked, say=lambda line: print(line, flush=True))
