"""The torch operators: schemas, fakes, gradients, torch.compile; on the CPU, where they run the references."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamactor import kernels
from dreamactor.kernels import dispatch, operators, reference
from dreamactor.kernels.sliding_tiles import sliding_tiles
from dreamactor.kernels.tiles import Tile

SCALE = 0.25
LAYOUT = sliding_tiles((2, 4, 4), (2, 2, 2), (1, 1, 3))


def heads(tokens: int, gradient: bool = True) -> Tensor:
    """[1,2,tokens,16] as a strided view, as the values in the network are."""
    return torch.randn(1, tokens, 2, 16, requires_grad=gradient).transpose(1, 2)


def segments() -> list[Tensor]:
    return [heads(32), heads(32), heads(32), heads(5), heads(5)]


def frame_rows(count: int) -> list[Tensor]:
    return list(torch.randn(1, 2, count, 32, requires_grad=True).unbind(2))


CASES: dict[str, tuple[Any, Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "two_segment": (
        operators._two_segment_attention, reference.two_segment_attention, lambda: (*segments(), SCALE)
    ),
    "face": (
        operators._face_attention, reference.face_attention, lambda: (heads(32), heads(8), heads(8), 2, 1, SCALE)
    ),
    "norm_rope": (
        operators._norm_rope, reference.norm_rope,
        lambda: (torch.randn(1, 7, 32, requires_grad=True), torch.rand(16, requires_grad=True), torch.randn(7, 8),
                 torch.randn(7, 8), 2, 1e-6),
    ),
    "modulate": (
        operators._modulate_norm, lambda x, a, b, eps: reference.modulate_norm(x, a, b, eps=eps)[1],
        lambda: (torch.randn(1, 6, 32, requires_grad=True), *frame_rows(2), 1e-6),
    ),
    "gated_modulate": (
        operators._gated_modulate_norm, lambda *a: reference.modulate_norm(*a),
        lambda: (torch.randn(1, 6, 32), *frame_rows(2), torch.randn(1, 6, 32).requires_grad_(), *frame_rows(1), 1e-6),
    ),
    "sparse": (
        operators._sparse_attention, reference.sparse_attention,
        lambda: (*segments(), LAYOUT.index, LAYOUT.offsets, SCALE),
    ),
    "norm_rope_fp8": (
        operators._norm_rope_fp8, reference.norm_rope_fp8,
        lambda: (torch.randn(1, 130, 32), torch.rand(16), torch.randn(130, 8), torch.randn(130, 8), 2, 1e-6,
                 torch.randn(1, 2, 16)),
    ),
    "fp8": (
        operators._fp8_attention, reference.fp8_attention,
        lambda: (*(tensor.detach() for tensor in segments()), SCALE),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator_is_sound(name: str) -> None:
    """Schema, fake implementation and autograd registration, by torch's own check."""
    operator, _, make = CASES[name]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator, make(), test_utils=tests)


@pytest.mark.parametrize("name", [name for name in CASES if "fp8" not in name])
def test_gradients_equal_the_reference(name: str) -> None:
    operator, plain, make = CASES[name]
    arguments = make()
    leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    results = []
    for function in (operator, plain):
        out = function(*arguments)
        outputs = out if isinstance(out, tuple) else (out,)
        results.append((*outputs, *torch.autograd.grad([o.square().sum() for o in outputs], leaves)))
    torch.testing.assert_close(results[0], results[1])


def test_public_functions_on_the_cpu_are_the_references(caplog: pytest.LogCaptureFixture) -> None:
    """Same numbers, same autograd graph as plain SDPA, and not a word about it."""
    arguments = segments()
    with caplog.at_level(logging.DEBUG, "dreamactor.kernels"):
        out = kernels.two_segment_attention(*arguments, SCALE)
    assert torch.equal(out, reference.two_segment_attention(*arguments, SCALE))
    assert out.grad_fn is not None
    assert "dreamactor" not in str(out.grad_fn)
    assert not caplog.records
    x = torch.randn(1, 6, 32)
    residual, normed = kernels.modulate_norm(x, *frame_rows(2))
    assert torch.equal(residual, x)
    assert normed.shape == x.shape


def test_operators_compile_whole() -> None:
    """No graph break, and the same numbers, through the fake implementations."""

    def layer(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q = torch.ops.dreamactor.norm_rope(x, weight, cos, sin, 2, 1e-6)
        y = torch.ops.dreamactor.two_segment_attention(q, q, q, q[:, :, :3], q[:, :, :3], SCALE)
        y = y + torch.ops.dreamactor.face_attention(q, q[:, :, :6], q[:, :, :6], 3, 1, SCALE)
        return torch.ops.dreamactor.modulate_norm(y, x[:, :3], x[:, 3:6], 1e-6) + kernels.modulate_norm(x, y, y)[1]

    inputs = (torch.randn(1, 9, 32), torch.rand(16), torch.randn(9, 8), torch.randn(9, 8))
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*inputs), layer(*inputs))


def test_public_functions_compile_whole() -> None:
    """The choice of way is made while tracing, the question about gradients too."""

    def layer(q: Tensor, k: Tensor) -> Tensor:
        out = kernels.two_segment_attention(q, q, q, k, k, SCALE)
        out = out + kernels.face_attention(q, k, k, 2, 1, SCALE)
        return out * 2 if dispatch.needs_gradient(q, None, k) else out

    q, k = heads(8, gradient=False), heads(4, gradient=False)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k), layer(q, k))


TILES = {
    "two_segment": Tile(32, 16, 4, 1), "face_attention": Tile(16, 0, 4, 1), "norm_rope": Tile(8, 2, 4, 1),
    "modulate_norm": Tile(4, 0, 4, 1), "fp8_attention": Tile(64, 64, 4, 1), "sparse_attention": Tile(32, 32, 4, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators_launch_their_kernels(
    name: str, interpreted: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way taken on a GPU, kernels interpreted: arguments arrive where they belong."""
    launched = []

    def pick(kernel: str, size: int, *tensors: Tensor) -> Tile:
        launched.append(kernel)
        return TILES[kernel]

    monkeypatch.setattr(dispatch, "pick", pick)
    monkeypatch.setattr(dispatch, "architecture", lambda device: 90)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    for module in ("face", "fp8", "modulate", "rotary", "sparse", "two_segment"):
        monkeypatch.setattr(kernels, module, interpreted(module), raising=False)
    operator, plain, make = CASES[name]
    arguments = [a.detach() if isinstance(a, Tensor) else a for a in make()]
    result, expected = operator(*arguments), plain(*arguments)
    for found, wanted in zip(*((r if isinstance(r, tuple) else (r,)) for r in (result, expected)), strict=True):
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found.float(), wanted.float(), rtol=0.13, atol=0.02 if "fp8" in name else 1e-5)
    assert launched


def test_a_kernel_that_cannot_run_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a GPU would meet: an unsupported type, a head size without tiles, an architecture without a table."""

    class OnDevice(Tensor):
        is_cuda = True
        device = torch.device("cuda", 7)

    def fake(size: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(1, 2, 8, size, dtype=dtype).as_subclass(OnDevice)

    monkeypatch.setattr(dispatch, "_architecture", lambda index: (90, ""))
    dispatch._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "dreamactor.kernels"):
        for _ in range(3):
            assert dispatch.pick("two_segment", 128, fake(128, torch.float32)) is None
            assert dispatch.pick("two_segment", 96, fake(96, torch.float16)) is None
        assert dispatch.pick("two_segment", 128, fake(128, torch.float16)) is not None
        monkeypatch.setattr(dispatch, "_architecture", lambda index: (None, "there is no tile table for this"))
        assert dispatch.pick("two_segment", 128, fake(128, torch.float16)) is None
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert "float32" in messages[0]
    assert "not 96" in messages[1]
    assert "no tile table" in messages[2]
