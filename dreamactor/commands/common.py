"""What several commands share: options, and the engine set that they mean."""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamactor.errors import InputError
from dreamactor.export.recipes import RECIPES
from dreamactor.files import read_file

if TYPE_CHECKING:
    from dreamactor.motion.limits import Limits

PRECISIONS = tuple(RECIPES)
PRESET = "puppet"  # where none is named


def add_preset(parser: argparse.ArgumentParser, default: str | None = PRESET) -> None:
    parser.add_argument("--preset", default=default, help=f"tiny, puppet or m1 (default: {PRESET})")


def add_precision(parser: argparse.ArgumentParser) -> None:
    default = "fp32 for a CPU, bf16 for a GPU, fp16 for one before SM80"
    parser.add_argument("--precision", choices=PRECISIONS, help=f"default: {default}")


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Flags for an engine set by its folder, or by the names that `make engines` knows it by."""
    default = "what `make engines` made of --preset and --precision for this machine's GPU, else one for its CPU"
    parser.add_argument("--engines", type=Path, help=f"engine set (default: {default})")
    add_preset(parser, default=None)
    add_precision(parser)


def engines_of(options: argparse.Namespace) -> Path:
    """The set that `add_engines`'s flags name. One for the GPU is taken as it is, one for the CPU is built if need be;
    says which, on stderr. Raises InputError for a set that is named twice."""
    if options.engines is None:
        with redirect_stdout(sys.stderr):
            return _usual_engines(options.preset or PRESET, options.precision)
    if options.preset or options.precision:
        raise InputError("--engines names a set that has its own preset and precision: leave the two out.")
    return Path(options.engines)


def _usual_engines(preset: str, precision: str | None) -> Path:
    from dreamactor import paths
    from dreamactor.build import set_at_hand
    from dreamactor.engines.manifest import FILE_NAME
    from dreamactor.engines.target import parse_target

    say_unused_gpu("auto")
    target = parse_target("auto")
    if target.name != "cpu":
        made = paths.engine_set(preset, precision or target.precision, target.name)
        if (made / FILE_NAME).is_file():
            print(f"engines: {made}", flush=True)
            return made
        print(f"There is no {made}, which `make engines` makes for this machine's GPU: the CPU is taken.", flush=True)
    return set_at_hand(preset, precision)


def say_unused_gpu(target: str) -> None:
    """Says why, where `auto` is the CPU in spite of a GPU."""
    from dreamactor.engines.gpu import local_gpu
    from dreamactor.engines.target import parse_target

    gpu = local_gpu()
    if target == "auto" and gpu is not None and parse_target("auto").name == "cpu":
        print(
            gpu.refusal
            or f"{gpu.name} is not used: neither TensorRT nor onnxruntime-gpu is installed, so 'auto' is the CPU. "
            "`dreamactor doctor` says how to get them.",
            flush=True,
        )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, help="folder of a checkpoint (default: the one that ships)")


def add_public_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--public-key", type=Path, help="Ed25519 key that must have signed the engine set")


def read_key(options: argparse.Namespace) -> bytes | None:
    """The key given with `add_public_key`'s flag."""
    return read_file(options.public_key, "public key") if options.public_key else None


_CAPS = (  # flag, field of Limits, its unit in the flag's, what it is of
    ("--max-clip-seconds", "clip_seconds", 1.0, "S", "length of the driving clip"),
    ("--max-clip-mb", "clip_bytes", 1e6, "MB", "size of the driving clip"),
    ("--max-image-mb", "image_bytes", 1e6, "MB", "size of a reference image"),
    ("--max-image-megapixels", "image_pixels", 1e6, "MP", "of a reference image"),
)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Flags for the caps on input media; those not given keep their defaults."""
    from dreamactor.motion.limits import Limits

    caps = parser.add_argument_group("caps on input")
    for flag, name, unit, metavar, what in _CAPS:
        default = getattr(Limits, name) / unit
        caps.add_argument(flag, dest=name, type=float, metavar=metavar, help=f"{what} (default: {default:.0f})")


def limits_of(options: argparse.Namespace) -> Limits:
    """The caps that `add_limits` parsed; raises InputError for one that is no sensible number."""
    from dreamactor.motion.limits import Limits

    chosen: dict[str, Any] = {}
    for flag, name, unit, *_ in _CAPS:
        value = getattr(options, name)
        if value is None:
            continue
        if not 0 < value < 1e9:
            raise InputError(f"{flag} must be above zero and less than 1e9, not {value}.")
        chosen[name] = type(getattr(Limits, name))(value * unit)
    if "clip_seconds" in chosen:
        frames = math.ceil(Limits.clip_frames * chosen["clip_seconds"] / Limits.clip_seconds)
        chosen["clip_frames"] = max(2, frames)
    return Limits(**chosen)
