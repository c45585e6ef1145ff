"""`dreamactor build`: from a checkpoint to a verified engine set."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from dreamactor import paths
from dreamactor.commands.common import add_checkpoint, add_precision, add_preset, say_unused_gpu

HELP = "checkpoint to a verified engine set"


def configure(parser: argparse.ArgumentParser) -> None:
    add_preset(parser)
    add_precision(parser)
    add_checkpoint(parser)
    targets = "auto, cpu, cuda, tensorrt, rtx, sm75..sm121"
    parser.add_argument("--target", default="auto", help=f"{targets} (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder of the set (default: build/engines/...)")
    parser.add_argument("--store", type=Path, help=f"where what was made once is kept (default: {paths.STORE})")
    parser.add_argument("--print-path", action="store_true", help="print only the set's folder")
    engine = parser.add_argument_group("TensorRT engines")
    engine.add_argument("--weight-streaming", action="store_true", help="weights may exceed the GPU's memory")
    engine.add_argument(
        "--attention", choices=("auto", "native", "plugin"), default="auto",
        help="TensorRT's own, our Triton kernels, or what is faster on this GPU (default: %(default)s)",
    )  # fmt: skip
    engine.add_argument("--strip", action="store_true", help="plans without weights: the ONNX beside them has these")
    engine.add_argument(
        "--hardware-compatibility", choices=("ampere-plus", "same-compute-capability"), default="",
        help="engines for SM80 and later, or for every card of this architecture (default: for this model of card)",
    )  # fmt: skip
    engine.add_argument("--references", type=int, default=4, metavar="N", help="at most so many (default: %(default)s)")
    engine.add_argument(
        "--sizes", type=_sizes, default=(None, None), metavar="HxW:HxW",
        help="smallest and largest picture, like 96x96:256x192 (default: the preset's size alone)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def _sizes(text: str) -> tuple[tuple[int, int], tuple[int, int]]:
    match = re.fullmatch(r"(\d+)x(\d+):(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH:HEIGHTxWIDTH, like 96x96:256x192")
    low_height, low_width, height, width = map(int, match.groups())
    return (low_height, low_width), (height, width)


def run(options: argparse.Namespace) -> int:
    from dreamactor.build import build_set
    from dreamactor.engines.builder import BuildOptions
    from dreamactor.engines.shapes import Ranges

    build = BuildOptions(
        options.weight_streaming, options.attention, strip=options.strip,
        hardware_compatibility=options.hardware_compatibility,
    )  # fmt: skip
    ranges = Ranges(options.references, *options.sizes)
    with redirect_stdout(sys.stderr) if options.print_path else nullcontext():  # of our libraries, too
        say_unused_gpu(options.target)
        folder = build_set(
            options.preset, options.precision, options.target, options.checkpoint, options.output, print,
            options=build, ranges=ranges, store=options.store,
        )  # fmt: skip
    if options.print_path:
        print(folder)
    return 0
