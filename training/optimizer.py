"""Muon for the matrices, AdamW for the rest, in one optimiser.

Muon (K. Jordan 2024, with the update's size of arXiv 2502.16982) replaces the momentum of a weight matrix by the
nearest orthogonal one; it needs about half the steps of AdamW here, and steps are what a small machine lacks. Several
processes share the matrices out among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamactor.training.parallel import Processes

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MATCH = 0.2  # the update's root mean square, of the learning rate: what AdamW's usually is


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
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            if group["matrix"]:
                self._matrices(parameters, group)
            else:
                for parameter in parameters:
                    self._adam(parameter, parameter.grad, group)

    def _matrices(self, parameters: list[torch.nn.Parameter], group: dict[str, float]) -> None:
        gradients = [self._with_momentum(parameter, group["momentum"]) for parameter in parameters]
        directions = self.processes.divide(orthogonal, gradients, torch.bfloat16)
        for parameter, direction in zip(parameters, directions, strict=True):
            size = MATCH * max(direction.shape) ** 0.5
            parameter.add_(direction.view_as(parameter), alpha=-group["lr"] * size)

    def _with_momentum(self, parameter: torch.nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's look ahead, as a matrix."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["exp_avg"], momentum).flatten(1)

    def _adam(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = group["betas"]
        state["step"] += 1
        count = float(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - second)
        root = (state["exp_avg_sq"] / (1 - second**count)).sqrt_().add_(1e-8)
        parameter.addcdiv_(state["exp_avg"], root, value=-group["lr"] / (1 - first**count))


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of the matrix's singular value decomposition, by Newton-Schulz iterations; bfloat16."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a hidden weight: a convolution, or a linear layer inside a transformer block."""
    return parameter.ndim == 4 or (parameter.ndim == 2 and ".blocks." in name and "modulation" not in name)
