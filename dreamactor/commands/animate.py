"""`dreamactor animate`: a photo and a driving clip to a video, in process or by a server."""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from dreamactor.commands.common import add_engines, add_limits, add_public_key, engines_of, limits_of, read_key
from dreamactor.errors import InputError
from dreamactor.files import check_output, read_file, write_whole
from dreamactor.presets import SOLVERS

if TYPE_CHECKING:
    from dreamactor.motion.limits import Limits

HELP = "a photo and a driving clip to a video"
OTHER_FORMATS = (".avi", ".gif", ".jpg", ".mkv", ".png", ".webm", ".webp")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", type=Path, action="append", required=True, help="photo; may be repeated")
    parser.add_argument("--driving", type=Path, required=True, help="clip whose motion and sound are taken")
    parser.add_argument("--output", type=Path, required=True, help="MP4 to write")
    parser.add_argument("--server", metavar="HOST:PORT", help="gRPC address of a running server (default: in process)")
    add_engines(parser)
    parser.add_argument("--steps", type=int, help="denoising steps (default: the preset's)")
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 for none (default: the preset's)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--max-frames", type=int, help="use only the clip's first frames")
    parser.add_argument("--scale", choices=("face", "half", "full"), help="default: from the reference")
    parser.add_argument("--solver", choices=SOLVERS, help="default: the preset's")
    parser.add_argument("--pseudo-references", type=int, default=0, help="views generated first, 0 to 3")
    add_public_key(parser)
    add_limits(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dreamactor.pipeline.options import Options
    from dreamactor.progress import ProgressBar

    chosen = Options(
        steps=options.steps, guidance_scale=options.guidance, seed=options.seed, max_frames=options.max_frames,
        scale=options.scale, solver=options.solver, pseudo_references=options.pseudo_references,
    )  # fmt: skip
    limits, public_key = limits_of(options), read_key(options)  # before the minutes of a build
    served = options.server is not None
    if served:
        _refuse_what_is_the_servers(options, limits)
    caps = (math.inf, math.inf) if served else (limits.image_bytes, limits.clip_bytes)
    references = [read_file(path, "reference", caps[0]) for path in options.reference]
    driving = read_file(options.driving, "driving clip", caps[1])
    check_output(options.output)
    if options.output.suffix.lower() in OTHER_FORMATS:
        raise InputError(f"{options.output} will be MP4 whatever its name: call it {options.output.stem}.mp4.")
    for path in (*options.reference, options.driving):
        if options.output.exists() and options.output.samefile(path):
            raise InputError(f"The output {options.output} is the input {path}: give another file name.")
    engines = Path() if served else engines_of(options)
    with redirect_stdout(sys.stderr), ProgressBar(options.output.name) as progress:  # what a library says, too
        if served:
            from dreamactor.serving.client import animate

            video = animate(options.server, references, driving, chosen, progress)
        else:
            from dreamactor.pipeline import Animator

            with Animator.open(engines, limits=limits, public_key=public_key) as animator:
                video = animator.animate(references, driving, chosen, progress)
    write_whole(options.output, video)
    written = sys.stdout if options.output.is_file() else sys.stderr  # not after a video in /dev/stdout
    size = f"{len(video) / 1e6:.2f} MB" if len(video) >= 1e5 else f"{len(video) / 1e3:.1f} kB"
    print(f"{options.output}: {size}", file=written)
    return 0


def _refuse_what_is_the_servers(options: argparse.Namespace, limits: Limits) -> None:
    """Raises InputError for flags that belong to `dreamactor serve`."""
    if limits != type(limits)():
        raise InputError("With --server the caps on input are the server's: give them to `dreamactor serve`.")
    if options.engines or options.preset or options.precision or options.public_key:
        raise InputError(
            "With --server the engines are the server's: give --engines, --preset, --precision and --public-key to "
            "`dreamactor serve`."
        )
