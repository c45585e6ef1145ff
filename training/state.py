"""The state of a run, enough to go on bit for bit: weights, their moving average, the optimiser's moments, the step.

One safetensors file that replaces its predecessor only when it is complete; nothing is pickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreamactor.errors import DreamActorError, InputError
from dreamactor.networks import Networks

STATE = "state.safetensors"


@dataclass
class Position:
    """Where a run is: index of the stage, steps done in it, seconds trained in all, seconds spent in the stage. `start`
    is the SHA-256 of the weights that it began from, "" for random ones."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    spent: float = 0.0
    start: str = ""


class MovingAverage:
    """Exponential moving average of a module's parameters and buffers."""

    def __init__(self, networks: Networks, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in networks.state_dict().items()}

    @torch.no_grad()
    def update(self, networks: Networks, step: int) -> None:
        """Moves towards the current values of the weights that are trained; early steps move further."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = [(self.values[name], value) for name, value in networks.named_parameters() if value.requires_grad]
        torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - decay)

    def copy_to(self, networks: Networks, prefix: str = "") -> None:
        """Overwrites the weights whose names begin with `prefix` by their averages."""
        networks.load_state_dict(
            {n: self.values[n] if n.startswith(prefix) else v for n, v in networks.state_dict().items()}
        )

    def reset(self, networks: Networks, prefix: str) -> None:
        """Takes the current values of everything whose name begins with `prefix`."""
        for name, value in networks.state_dict().items():
            if name.startswith(prefix):
                self.values[name] = value.detach().clone()


def save_state(
    folder: Path,
    networks: Networks,
    average: MovingAverage,
    moments: dict[str, Tensor],
    position: Position,
    about: dict[str, Any],
) -> None:
    """Writes the state. Raises DreamActorError, and keeps the last good state, when the disk is full or some weights
    are not finite: such a training has diverged and does not recover."""
    if not all(bool(value.isfinite().all()) for value in average.values.values()):
        raise DreamActorError(
            f"The training has diverged: some weights are not finite. The last good state is kept in {folder}. Lower "
            "the learning rate in the recipe and start the same command: it goes on from there."
        )
    tensors = {f"net.{k}": v for k, v in networks.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in average.values.items()}
    tensors |= {f"opt.{k}": v for k, v in moments.items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    temporary = folder / f".{STATE}.new"  # one name: a killed run's is written over
    try:
        save_file(tensors, temporary, metadata={"position": json.dumps(vars(position)), "about": json.dumps(about)})
        temporary.replace(folder / STATE)
    except (OSError, SafetensorError) as error:
        raise DreamActorError(
            f"The training state could not be written to {folder} ({error}); the last good one is kept. "
            "Make room and start the same command again: it goes on from there."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_state(
    folder: Path, networks: Networks, average: MovingAverage, about: dict[str, Any]
) -> tuple[Position, dict[str, Tensor]] | None:
    """Restores a state into `networks` and `average`; returns its position and the optimiser's moments, or None where
    there is no state.

    Raises InputError when the state cannot be read, or is of another preset or seed or of a recipe that began with
    other stages.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found, position = json.loads(metadata["about"]), Position(**json.loads(metadata["position"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it to begin anew.") from error
    was, wanted = _essential(found), _essential(json.loads(json.dumps(about)))
    if other := [f"{key} {was.get(key)}, not {wanted[key]}" for key in wanted if was.get(key) != wanted[key]]:
        raise InputError(
            f"{path} is of another run ({'; '.join(other)}); name another folder, or delete it to begin anew."
        )
    begun = found.get("stages", [])[: position.stage + 1]  # older states do not say
    if begun != about["stages"][: len(begun)]:
        raise InputError(
            f"{path} is of another recipe: its stages began with {', '.join(begun)}, not with "
            f"{', '.join(about['stages'][: len(begun)])}; name another folder, or delete it to begin anew."
        )
    networks.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    average.values = {k[4:]: v.to(average.values[k[4:]].device) for k, v in tensors.items() if k.startswith("ema.")}
    return position, {k[4:]: v for k, v in tensors.items() if k.startswith("opt.")}


def _essential(about: dict[str, Any]) -> dict[str, Any]:
    """What must agree: the seed and the preset, without the options of sampling."""
    sampled = ("steps", "guidance_scale", "timestep_shift", "solver")
    return {"seed": about["seed"], **{k: v for k, v in about["preset"].items() if k not in sampled}}
