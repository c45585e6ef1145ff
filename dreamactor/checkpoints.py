"""A checkpoint's folder as all but the networks see it: weights and, beside them, the preset they are for. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from dreamactor.errors import InputError
from dreamactor.presets import Preset

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def read_preset(folder: Path | str, name: str | None = None) -> Preset:
    """The preset that a checkpoint is for, of the sizes that its own description gives.

    Raises InputError where a file is missing or the description unreadable, and where it is not that of preset `name`.
    """
    folder = Path(folder)
    path = folder / CONFIG
    try:
        found = Preset.from_dict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise InputError(_incomplete(folder, CONFIG)) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except InputError as error:
        raise InputError(f"{path} does not describe a preset: {error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    if not (folder / WEIGHTS).is_file():
        raise InputError(_incomplete(folder, WEIGHTS))
    if name is not None and found.name != name:
        raise InputError(
            f"{folder} holds a '{found.name}' checkpoint, not '{name}': ask for preset {found.name}, or give a "
            f"checkpoint of {name}."
        )
    return found


def _incomplete(folder: Path, file: str) -> str:
    return f"{folder} is no checkpoint, for it has no {file}: give the folder that holds {CONFIG} and {WEIGHTS}."
