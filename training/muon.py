"""Muon for the matrices, AdamW for the rest, in one optimiser.

Muon (K. Jordan 2024, with the update's size of arXiv 2502.16982) replaces the momentum of a weight matrix by the
nearest orthogonal one; it needs about half the steps of AdamW here, and steps are what a small machine lacks. The
update is that of torch.optim.Muon, which takes matrices alone, one at a time and always in bfloat16: this one takes
convolutions too, stacks matrices of one shape, shares them out among processes, and uses float32 where bfloat16 is only
emulated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dreamactor.training.parallel import Processes

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MATCH = 0.2  # root mean square of an update, as a share of the learning rate: about that of AdamW


class Muon(torch.optim.Optimizer):
    """Groups with `matrix` true, of parameters of two or more dimensions, take orthogonal updates."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        processes: Processes,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)
        self.processes = processes

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            if group["matrix"]:
                self._matrices(parameters, group)
            else:
                self._adam(parameters, group)

    def _matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape, either way round, are made orthogonal together."""
        gradients, momentum = _gradients(parameters), group["momentum"]
        moments = self._moments(parameters, "exp_avg")
        torch._foreach_lerp_(moments, gradients, 1 - momentum)
        ahead = [look.flatten(1) for look in torch._foreach_lerp(gradients, moments, momentum)]  # Nesterov's
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, matrix in enumerate(ahead):
            alike.setdefault(tuple(sorted(matrix.shape)), []).append(index)
        for (_, longer), members in alike.items():
            stack = torch.stack([_wide(ahead[index]) for index in members])
            directions = self.processes.divide(orthogonal, stack.to(_working_type(stack.device))).to(stack.dtype)
            chosen = [parameters[index] for index in members]
            updates = [
                (direction if direction.shape == ahead[index].shape else direction.mT).reshape(parameters[index].shape)
                for index, direction in zip(members, directions, strict=True)
            ]
            torch._foreach_add_(chosen, updates, alpha=-group["lr"] * MATCH * longer**0.5)

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients, (first, second) = _gradients(parameters), group["betas"]
        means, squares = (self._moments(parameters, name) for name in ("exp_avg", "exp_avg_sq"))
        counts = [self._count(parameter) for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        roots = torch._foreach_div(squares, [1 - second**count for count in counts])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, 1e-8)
        torch._foreach_addcdiv_(parameters, means, roots, [-group["lr"] / (1 - first**count) for count in counts])

    def _moments(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]

    def _count(self, parameter: Tensor) -> float:
        """Updates of a parameter, this one included; kept on the CPU, where reading it waits for nothing."""
        count: Tensor = self.state[parameter].setdefault("step", torch.zeros(()))
        count += 1
        return float(count)


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _wide(matrix: Tensor) -> Tensor:
    """With no more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def orthogonal(matrices: Tensor) -> Tensor:
    """About U V^T of the singular value decomposition of matrices [...,a,b], a <= b, by Newton-Schulz iterations in the
    type of the matrices; bfloat16 is fine enough."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _working_type(device: torch.device) -> torch.dtype:
    """The type in which `orthogonal` multiplies."""
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether matrix products of bfloat16 are at least as fast as those of float32; a processor that only emulates them
    is up to fifty times slower."""
    if device.type != "cpu":
        return True
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a hidden weight: a convolution, or a linear layer inside a transformer block."""
    return parameter.ndim == 4 or (parameter.ndim == 2 and ".blocks." in name and "modulation" not in name)
