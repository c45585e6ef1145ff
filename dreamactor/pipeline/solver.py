"""Flow-matching solvers as coefficients: the next latent is a*x + b*v + c*v_previous, computed inside the engine.

x_t = (1-t) x0 + t noise, so dx/dt is the velocity v = noise - x0 and t runs from 1 to 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SolverStep:
    """Timestep at which the velocity is taken, and (a, b, c) of the update."""

    timestep: float
    coefficients: tuple[float, float, float]


def timesteps(steps: int, shift: float) -> NDArray[np.float64]:
    """steps+1 times from 1 to 0; `shift` > 1 spends more of them at high noise (Esser et al., arXiv 2403.03206)."""
    uniform = np.linspace(1.0, 0.0, steps + 1)
    return shift * uniform / (1 + (shift - 1) * uniform)


def schedule(solver: str, steps: int, shift: float = 1.0) -> list[SolverStep]:
    """The steps of `solver`: "euler", or "multistep", the second-order Adams-Bashforth rule for unequal steps.

    The multistep rule starts with an Euler step, so v_previous is never read before there is one.
    """
    times = timesteps(steps, shift)
    widths = np.diff(times)
    result = []
    for index, (time, width) in enumerate(zip(times, widths, strict=False)):
        if solver == "euler" or index == 0:
            coefficients = (1.0, float(width), 0.0)
        else:
            ratio = width / widths[index - 1]
            coefficients = (1.0, float(width * (1 + ratio / 2)), float(-width * ratio / 2))
        result.append(SolverStep(float(time), coefficients))
    return result
