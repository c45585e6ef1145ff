"""What several commands share: options, and files read and written whole."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dreamactor.errors import InputError

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
