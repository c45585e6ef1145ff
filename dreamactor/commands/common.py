"""What several commands share: options, and files read and written whole."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dreamactor.errors import InputError

if TYPE_CHECKING:
    from dreamactor.motion.limits import Limits

PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8")


def add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="puppet", help="tiny, puppet or m1 (default: %(default)s)")


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: %(default)s")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, help="folder of a checkpoint (default: the one that ships)")


def read_file(path: Path, what: str) -> bytes:
    """The file's bytes; raises InputError naming `what` it was for."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read: {error.strerror}.") from error


def check_output(path: Path) -> None:
    """Refuses an output that could not be written, before the minutes of work."""
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"The output {path} cannot be written: give a file name in a folder that exists.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"The output {path} cannot be written: {path.parent} is not writable.")


def write_whole(path: Path, content: bytes) -> None:
    """Writes the file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"The output {path} cannot be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Flags for the caps on input media; those not given keep their defaults."""
    caps = parser.add_argument_group("caps on input")
    caps.add_argument("--max-clip-seconds", type=float, metavar="S", help="length of the driving clip (default: 60)")
    caps.add_argument("--max-clip-mb", type=float, metavar="MB", help="size of the driving clip (default: 537)")
    caps.add_argument("--max-image-mb", type=float, metavar="MB", help="size of a reference image (default: 67)")
    caps.add_argument("--max-image-megapixels", type=float, metavar="MP", help="of a reference image (default: 80)")


def limits_of(options: argparse.Namespace) -> Limits:
    """The caps that `add_limits` parsed; raises InputError for one that is not above zero."""
    from dreamactor.motion.limits import Limits

    chosen = {
        "clip_seconds": options.max_clip_seconds,
        "clip_bytes": _millions(options.max_clip_mb),
        "image_bytes": _millions(options.max_image_mb),
        "image_pixels": _millions(options.max_image_megapixels),
    }
    for name, value in chosen.items():
        if value is not None and not value > 0:
            raise InputError(f"The cap on {name.replace('_', ' ')} must be above zero, not {value}.")
    return Limits(**{name: value for name, value in chosen.items() if value is not None})


def _millions(value: float | None) -> int | None:
    return None if value is None else int(value * 1_000_000)
