"""A stage's optimiser: which parameters it trains, at which learning rate, and its moments in the form of a state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dreamactor.errors import DreamActorError
from dreamactor.networks import Networks
from dreamactor.training.muon import Muon, is_matrix
from dreamactor.training.parallel import Processes
from dreamactor.training.recipe import FACE_MODULES, Stage

CLIP_NORM = 1.0
WARMUP = 60
FACE_RATE = 0.4
"""Share of the learning rate for the face attention. Until the network draws mouths there is nothing for it to learn,
and Muon's steps are as large for noise as for a signal: at the full rate its gates close before that."""
KINDS = {"matrices": (True, 1.0), "face": (True, FACE_RATE), "others": (False, 1.0)}  # whether matrices, share of rate


class StageOptimizer:
    """Updates the parameters that a stage trains; from its making on they alone take gradients.

    Raises DreamActorError where the stage trains no parameter.
    """

    def __init__(self, networks: Networks, stage: Stage, processes: Processes) -> None:
        self.stage, self.processes = stage, processes
        chosen: dict[str, dict[str, torch.nn.Parameter]] = {kind: {} for kind in KINDS}
        for name, parameter in networks.named_parameters():
            parameter.requires_grad_(_among(name, stage.trains))
            if parameter.requires_grad:
                matrix = "face" if _among(name, FACE_MODULES) else "matrices"
                chosen[matrix if is_matrix(name, parameter) else "others"][name] = parameter
        self.parameters = {name: parameter for group in chosen.values() for name, parameter in group.items()}
        if not self.parameters:
            raise DreamActorError(
                f"Stage '{stage.name}' trains nothing: no parameter has {' or '.join(stage.trains)} in its name. "
                "Correct `trains` in the recipe."
            )
        groups: list[dict[str, Any]] = [
            {"params": list(chosen[kind].values()), "matrix": matrix, "rate": rate}
            for kind, (matrix, rate) in KINDS.items()
        ]
        self.optimizer = Muon(groups, stage.learning_rate, processes)

    def step(self, step: int, progress: float) -> None:
        """One update from the gradients: averaged over the processes, clipped, and dropped afterwards. `progress`
        (0..1): how far through the stage."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * group["rate"] * schedule(step, progress, self.stage.decay)
        parameters = list(self.parameters.values())
        self.processes.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's moments as `<parameter>.exp_avg` and so on; empty before the first step."""
        names, states = list(self.parameters), self.optimizer.state_dict()["state"]
        return {f"{names[i]}.{key}": value for i, state in states.items() for key, value in state.items()}

    def restore(self, moments: dict[str, Tensor]) -> None:
        """Inverse of `moments`; leaves out parameters that the stage does not train."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in moments.items():
            name, _, moment = key.rpartition(".")
            if name in self.parameters:
                state.setdefault(list(self.parameters).index(name), {})[moment] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})


def schedule(step: int, progress: float, decay: float) -> float:
    """The share of the stage's learning rate at a step: it warms up, stays level, and falls to a tenth over the last
    `decay` (a share) of the stage."""
    rise = min(1.0, (step + 1) / WARMUP)
    late = max(0.0, progress - (1 - decay)) / decay if decay else 0.0
    return rise * (1 - 0.9 * late)


def _among(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a parameter's name contains that of one of the modules."""
    return any(part in name for part in modules)
