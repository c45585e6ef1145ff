"""Muon beside its definition, parameter by parameter."""

from __future__ import annotations

import pytest
import torch

from dreamactor.training import parallel
from dreamactor.training.muon import MATCH, Muon, multiplies_bfloat16, orthogonal

RATE, DECAY, MOMENTUM, BETAS = 0.02, 0.01, 0.95, (0.9, 0.98)
SHAPES = {True: [(24, 8), (8, 24), (8, 24), (16, 16), (6, 2, 2, 3), (24, 8)], False: [(7,), (3, 5), ()]}


def one_by_one(value: torch.Tensor, gradients: list[torch.Tensor], matrix: bool) -> torch.Tensor:
    """What a parameter becomes."""
    value, first, second = value.clone(), torch.zeros_like(value), torch.zeros_like(value)
    for count, gradient in enumerate(gradients, 1):
        value *= 1 - RATE * DECAY
        if matrix:
            first = MOMENTUM * first + (1 - MOMENTUM) * gradient
            ahead = ((1 - MOMENTUM) * gradient + MOMENTUM * first).flatten(1)
            value -= RATE * MATCH * max(ahead.shape) ** 0.5 * orthogonal(ahead).float().view_as(value)
        else:
            first = BETAS[0] * first + (1 - BETAS[0]) * gradient
            second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
            root = (second / (1 - BETAS[1] ** count)).sqrt() + 1e-8
            value -= RATE * first / (1 - BETAS[0] ** count) / root
    return value


def test_updates_together_are_those_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = [matrix for matrix, shapes in SHAPES.items() for _ in shapes]
    shapes = [shape for group in SHAPES.values() for shape in group]
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    gradients = [[torch.randn(shape, generator=generator) for _ in range(3)] for shape in shapes]
    expected = [
        one_by_one(parameter.detach(), given, matrix)
        for parameter, given, matrix in zip(parameters, gradients, kinds, strict=True)
    ]
    groups = [
        {"params": [p for p, kind in zip(parameters, kinds, strict=True) if kind == matrix], "matrix": matrix}
        for matrix in (True, False)
    ]
    optimizer = Muon(groups, RATE, parallel.start(), MOMENTUM, BETAS, DECAY)
    for step in range(3):
        for parameter, given in zip(parameters, gradients, strict=True):
            parameter.grad = given[step].clone()
        optimizer.step()

    for parameter, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted, atol=2e-3, rtol=0)


def test_a_parameter_without_a_gradient_stays() -> None:
    parameters = [torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2)]
    optimizer = Muon([{"params": parameters, "matrix": True}], RATE, parallel.start())
    parameters[0].grad = torch.eye(4)
    optimizer.step()
    assert not torch.equal(parameters[0], torch.ones(4, 4))
    assert torch.equal(parameters[1], torch.ones(4, 4))


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({"avx2": True}, False), ({"avx512_f": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True)],
)
def test_updates_take_the_type_that_the_processor_multiplies(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert multiplies_bfloat16(torch.device("cpu")) is fast
    assert multiplies_bfloat16(torch.device("cuda"))
    gradient = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(torch.zeros(4, 9))
    parameter.grad = gradient
    optimizer = Muon([{"params": [parameter], "matrix": True}], 1.0, parallel.start(), momentum=0.0)
    optimizer.step()
    for kind in (torch.float32, torch.bfloat16):
        wanted = torch.zeros(4, 9).add(orthogonal(gradient[None].to(kind))[0].float(), alpha=-MATCH * 3)
        assert torch.equal(parameter.detach(), wanted) is ((kind == torch.bfloat16) is fast)


def test_orthogonal_updates_have_singular_values_near_one() -> None:
    for shape in ((12, 40), (40, 12)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert 0.5 < float(values.min()) <= float(values.max()) < 1.4
