"""Checkpoints: one safetensors file with the preset's description beside it. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamactor.checkpoints import CONFIG, WEIGHTS, read_preset
from dreamactor.errors import DreamActorError, InputError
from dreamactor.networks.face_encoder import FaceMotionEncoder
from dreamactor.networks.pose_encoder import PoseEncoder
from dreamactor.networks.transformer import Transformer
from dreamactor.networks.vae import VAE
from dreamactor.presets import Preset


class Networks(nn.Module):
    """All of DreamActor-M1's networks at one preset's size."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.vae = VAE(preset.vae)
        self.pose_encoder = PoseEncoder(preset.pose_encoder)
        self.face_encoder = FaceMotionEncoder(preset.face_encoder)
        self.transformer = Transformer(
            preset.transformer, preset.face_encoder.out_channels, preset.pose_encoder.out_channels
        )


def build(preset: Preset, seed: int = 0) -> Networks:
    """Networks with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Networks(preset).eval()


def build_meta(preset: Preset) -> Networks:
    """Networks without memory, to count and to plan with."""
    with torch.device("meta"):
        return Networks(preset).eval()


def save(networks: Networks, folder: Path | str, dtype: torch.dtype = torch.float16) -> None:
    """Writes `model.safetensors` and `config.json` into `folder`; each replaces its predecessor only when complete.

    Raises InputError for weights that `dtype` cannot hold, DreamActorError when the disk is full or the folder cannot
    be written.
    """
    folder = Path(folder)
    state = {name: _cast(name, value, dtype) for name, value in networks.state_dict().items()}
    weights, config = folder / f".{WEIGHTS}.{os.getpid()}", folder / f".{CONFIG}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, weights, metadata={"preset": networks.preset.name})
        config.write_text(json.dumps(networks.preset.to_dict(), indent=2) + "\n")
        shutil.copymode(config, weights)  # safetensors makes files that their owner alone reads
        os.replace(weights, folder / WEIGHTS)
        os.replace(config, folder / CONFIG)
    except (OSError, SafetensorError) as error:  # the second for a full disk too
        raise DreamActorError(
            f"The checkpoint {folder} cannot be written ({error}): free some space or give another folder. "
            "What was there is still there."
        ) from error
    finally:
        for path in (weights, config):
            with contextlib.suppress(OSError):
                path.unlink()


def load(folder: Path | str, preset: Preset | None = None) -> Networks:
    """Networks in float32 from a checkpoint folder, of the sizes that its own description gives.

    Raises InputError when a file is missing or unreadable, when `preset` is given and the checkpoint's has another
    name, when no networks have the sizes that are described, or when tensors are missing, unexpected, of another shape,
    no floating-point numbers or not finite, which it names.
    """
    weights = StoredWeights(folder, preset)
    weights.require_finite()
    weights.networks.load_state_dict(dict(weights), assign=True)
    return weights.networks


class StoredWeights(Mapping[str, Tensor]):
    """A checkpoint's weights in float32 by the names of `Networks.state_dict()`, each read when it is asked for and not
    kept: they need not fit into memory.

    `networks` are those that the checkpoint describes, without memory. No value is read before it is asked for. Raises
    InputError as `load` does where names, shapes or kinds of number are not theirs.
    """

    def __init__(self, folder: Path | str, preset: Preset | None = None) -> None:
        self._folder = Path(folder)
        self.networks = _described(self._folder, preset)
        self.preset = self.networks.preset
        with _readable(self._folder):
            file: Any = safe_open(self._folder / WEIGHTS, "pt")
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        self._file, self._names = file, tuple(slices)
        found = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
        _check_keys(self._folder, self.networks, found)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._as_stored(name).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _as_stored(self, name: str) -> Tensor:
        with _readable(self._folder):
            value: Tensor = self._file.get_tensor(name)
        return value

    def require_finite(self) -> None:
        """Reads them all; raises InputError that names those with values that are not finite."""
        if broken := [name for name in self._names if not _is_finite(self._as_stored(name))]:
            raise InputError(
                f"{self._folder / WEIGHTS} has values that are not finite ({_first(broken)}): it comes of a diverged "
                "training or a faulty conversion."
            )


def _described(folder: Path, preset: Preset | None) -> Networks:
    """Networks without memory, of the sizes that a checkpoint's description gives."""
    found = read_preset(folder, preset.name if preset else None)
    try:
        return build_meta(found)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{folder / CONFIG} describes networks that cannot be made: {error}.") from error


def _is_finite(value: Tensor) -> bool:
    """By its ends, which are not numbers where any value is none: far quicker than value by value."""
    ends = (value if value.itemsize > 1 else value.float()).aminmax()
    return bool(torch.stack(ends).isfinite().all())


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder / WEIGHTS} cannot be read as safetensors ({error}): copy the checkpoint again."
        ) from error


def _cast(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    cast = value.detach().to("cpu", dtype).contiguous()
    if value.isfinite().all() and not cast.isfinite().all():
        raise InputError(f"{name} has values beyond {dtype}: save it with dtype=torch.float32.")
    return cast


def _check_keys(folder: Path, networks: Networks, state: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """`state` has each tensor's shape and type, in safetensors' words."""
    expected = {name: tuple(value.shape) for name, value in networks.state_dict().items()}
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is not part of this preset" for name in state if name not in expected]
    there = [name for name in expected if name in state]
    problems += [
        f"{name} is {state[name][0]}, expected {expected[name]}" for name in there if state[name][0] != expected[name]
    ]
    problems += [
        f"{name} is {state[name][1]}, expected floating point"
        for name in there
        if not state[name][1].startswith(("F", "BF"))
    ]
    if problems:
        raise InputError(
            f"{folder / WEIGHTS} does not fit its {CONFIG} ({_first(problems)}): copy both from the same checkpoint."
        )


def _first(found: Sequence[str]) -> str:
    """The first five, and how many more there are."""
    return "; ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
