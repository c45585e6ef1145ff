"""The torch operators: schemas, fakes, gradients, torch.compile; on the CPU, where they run the references."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from dreamactor import kernels
from dreamactor.errors import InputError
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
    "gated_modulate, permuted and mixed": (
        operators._gated_modulate_norm, lambda *a: tuple(part.to(a[0].dtype) for part in reference.modulate_norm(*a)),
        lambda: (torch.randn(6, 1, 32).to(torch.bfloat16).transpose(0, 1), *frame_rows(2),
                 torch.randn(1, 32, 6).transpose(1, 2).requires_grad_(), *frame_rows(1), 1e-6),
    ),
    "modulate, permuted and mixed": (
        operators._modulate_norm, lambda x, a, b, eps: reference.modulate_norm(x, a, b, eps=eps)[1].to(x.dtype),
        lambda: (torch.randn(1, 32, 6).to(torch.bfloat16).transpose(1, 2).requires_grad_(), *frame_rows(2), 1e-6),
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


def test_public_functions_compile_whole() -> None:
    """The choice of way is made while tracing, the question about gradients too."""

    def layer(q: Tensor, k: Tensor) -> Tensor:
        out = kernels.two_segment_attention(q, q, q, k, k, SCALE)
        out = out + kernels.face_attention(q, k, k, 2, 1, SCALE)
        return out * 2 if dispatch.needs_gradient(q, None, k) else out

    q, k = heads(8, gradient=False), heads(4, gradient=False)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k), layer(q, k))


OPERATORS = (
    "norm_rope", "two_segment_attention", "fp8_attention", "face_attention", "sparse_attention", "modulate_norm",
    "gated_modulate_norm", "norm_rope_fp8",
)  # fmt: skip


def each_function(
    way: Any, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, rows: Tensor, references: Tensor, *lists: Tensor
) -> tuple[Tensor, ...]:
    """Every public function of `kernels`, or of `reference`: they have the same names."""
    q, k = way.norm_rope(x, weight, cos, sin, 2, 1e-3), way.norm_rope(x, weight + 1, sin, cos, 2)
    segments = (q, k, q + 1, references, references + 1)
    y = way.two_segment_attention(*segments, SCALE) + way.sparse_attention(*segments, *lists, SCALE)
    y = y + way.face_attention(q, k, q + 1, 2, 0, SCALE) + way.fp8_attention(*segments, SCALE)
    _, branch = way.modulate_norm(y, rows, rows + 1, eps=1e-3)
    modulated = way.modulate_norm(y, rows, rows + 1, branch, rows + 2, 1e-3)
    return (*modulated, *way.norm_rope_fp8(y, weight, cos, sin, 2, 1e-3, references.sum(2)))


def compiled(arguments: list[Tensor]) -> tuple[tuple[Tensor, ...], set[str]]:
    """The public functions' outputs through one graph without a break, and the operators in it."""
    called = set()

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        called.update(str(node.target).split(".")[1] for node in module.graph.nodes if "dreamactor" in str(node.target))
        return torch._dynamo.lookup_backend("aot_eager")(module, inputs)

    return torch.compile(partial(each_function, kernels), fullgraph=True, backend=backend)(*arguments), called


@pytest.fixture
def arguments() -> list[Tensor]:
    shapes = ((1, 32, 32), (16,), (32, 8), (32, 8), (1, 2, 32), (1, 2, 5, 16))
    return [*(torch.randn(shape) for shape in shapes), LAYOUT.index, LAYOUT.offsets]


def test_compiled_public_functions_call_the_operators_on_a_gpu(
    arguments: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way taken there, each argument in its place: on the CPU the operators run the references."""
    monkeypatch.setattr(dispatch, "by_operator", lambda kernel, *tensors: True)
    found, called = compiled(arguments)
    assert called == set(OPERATORS)
    for result, expected in zip(found, each_function(reference, *arguments), strict=True):
        torch.testing.assert_close(result.float(), expected.float())


def test_compiled_public_functions_choose_the_operators_on_a_gpu(arguments: list[Tensor]) -> None:
    """The choice itself, on tensors of a GPU without memory."""
    expected = each_function(reference, *arguments)
    with FakeTensorMode():
        given = [torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda") for tensor in arguments]
        found, called = compiled(given)
    assert called == set(OPERATORS)
    assert [(part.shape, part.dtype) for part in found] == [(part.shape, part.dtype) for part in expected]
    assert all(part.is_cuda for part in found)


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

    def pick(kernel: str, size: int, *tensors: Tensor, **options: Any) -> Tile:
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


class OnDevice(Tensor):
    """A tensor that says that it lies on a GPU."""

    is_cuda = True
    device = torch.device("cuda", 7)


def on_device(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.zeros(*shape, dtype=dtype).as_subclass(OnDevice)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What was logged, on a GPU of capability 9.0."""
    monkeypatch.setattr(dispatch, "_architecture", lambda index: (90, ""))
    monkeypatch.setattr(dispatch, "capability", lambda device: 90)
    dispatch._say_once.cache_clear()
    with caplog.at_level(logging.INFO, "dreamactor.kernels"):
        yield lambda: [record.getMessage() for record in caplog.records]


def test_a_kernel_that_cannot_run_says_so_once(said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would meet: an unsupported type, a head size without tiles, rows too far apart, no table."""
    for _ in range(3):
        assert dispatch.pick("two_segment", 128, on_device(1, 2, 8, 128, dtype=torch.float32)) is None
        assert dispatch.pick("two_segment", 96, on_device(1, 2, 8, 96)) is None
    far = torch.zeros(8, dtype=torch.float16).as_strided((1, 1, 1, 8), (1, 1, 2**24, 1))
    assert dispatch.pick("two_segment", 128, far.as_subclass(OnDevice)) is None
    assert dispatch.pick("two_segment", 128, on_device(1, 2, 8, 128)) is not None
    monkeypatch.setattr(dispatch, "_architecture", lambda index: (None, "there is no tile table for this"))
    assert dispatch.pick("two_segment", 128, on_device(1, 2, 8, 128)) is None
    messages = said()
    assert len(messages) == 4
    assert "float32" in messages[0]
    assert "not 96" in messages[1]
    assert f"{2**24} elements apart" in messages[2]
    assert "no tile table" in messages[3]


def test_e4m3_needs_the_device_not_the_table(said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """sm_86 has the tiles of sm_89 and none of its conversions."""
    monkeypatch.setattr(dispatch, "_architecture", lambda index: (89, ""))
    monkeypatch.setattr(dispatch, "capability", lambda device: 86)
    x, angles = torch.zeros(1, 8, 256, dtype=torch.bfloat16).as_subclass(OnDevice), torch.zeros(8, 64)
    segments = (on_device(1, 1, 8, 128),) * 5
    assert dispatch.pick("two_segment", 128, *segments) is not None
    assert dispatch.pick("fp8_attention", 128, *segments, fp8=True) is None
    assert dispatch.pick("norm_rope", 128, x, fp8=True) is None
    asked: list[bool] = []

    def pick(*_: Any, fp8: bool = False, refused: str = "") -> None:
        asked.append(fp8)

    monkeypatch.setattr(dispatch, "pick", pick)
    operators._fp8_attention(*(torch.zeros(1, 1, 8, 128),) * 5, 1.0)
    operators._norm_rope_fp8(torch.zeros(1, 8, 256), torch.ones(128), angles, angles, 2, 1e-6, None)
    assert asked == [True, True]
    assert sum("8.9" in message and "8.6" in message for message in said()) == 2


def test_what_stands_in_the_way_besides_is_said(said: Callable[[], list[str]]) -> None:
    """A scale that is not positive, no keys, wide face windows; gradients too, quietly."""
    tensors = (on_device(1, 1, 8, 128),) * 3
    for scale, keys in ((-1.0, 5), (1.0, 0)):
        assert dispatch.pick("two_segment", 128, *tensors, refused=operators._refusal(scale, keys)) is None
    assert operators._refusal(1.0, 1) == ""
    assert not dispatch.by_operator("norm_rope", on_device(1, dtype=torch.float32).requires_grad_())
    assert dispatch.by_operator("norm_rope", on_device(1), None)
    assert [message.split(": ")[1] for message in said()] == [
        "its scale is -1, not positive.", "there are no keys.", "its inputs need gradients.",
    ]  # fmt: skip


def test_a_wide_face_window_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = []

    def pick(*_: Any, refused: str = "") -> None:
        reasons.append(refused)

    monkeypatch.setattr(dispatch, "pick", pick)
    operators._face_attention(heads(32).detach(), heads(120).detach(), heads(120).detach(), 2, 1, SCALE)
    assert reasons == ["its window holds 180 face tokens, more than 128"]


Q, X = torch.zeros(2, 3, 8, 16), torch.zeros(2, 8, 48)
ROWS, LONG = torch.zeros(2, 4, 48), torch.zeros(8, 8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: operators._two_segment_attention(Q, Q[:1], Q[:1], Q, Q, SCALE), r"k is \[1, 3, 8, 16\]; expected"),
        (lambda: operators._two_segment_attention(Q, Q, Q, Q[:, :2], Q[:, :2], SCALE), "k_reference is"),
        (lambda: operators._two_segment_attention(Q, Q, Q[:, :, :7], Q, Q, SCALE), "the values of k is"),
        (lambda: operators._fp8_attention(Q, Q[..., :8], Q, Q, Q, SCALE), "k is"),
        (lambda: operators._face_attention(Q, Q, Q[:, :, :4], 2, 1, SCALE), "v is"),
        (lambda: operators._face_attention(Q, Q, Q, 3, 1, SCALE), "8 tokens of q do not divide into 3"),
        (lambda: operators._norm_rope(X, LONG[0], LONG[:7], LONG, 3, 1e-6), "weight is"),
        (lambda: operators._norm_rope(X, torch.ones(16), LONG[:7], LONG, 3, 1e-6), "cos is"),
        (lambda: operators._norm_rope(X, torch.ones(16), LONG, LONG, 5, 1e-6), "5 heads"),
        (lambda: operators._norm_rope_fp8(X, torch.ones(16), LONG, LONG, 3, 1e-6, Q[:, :2, 0]), "offset is"),
        (lambda: operators._modulate_norm(X, ROWS, ROWS[:1], 1e-6), "a row of the modulation is"),
        (lambda: operators._modulate_norm(X, ROWS[:, :3], ROWS[:, :3], 1e-6), "do not divide into 3"),
        (lambda: operators._gated_modulate_norm(X, ROWS, ROWS, X[:, :4], ROWS, 1e-6), "branch is"),
        (lambda: operators._sparse_attention(Q, Q, Q, Q, Q, LAYOUT.index, LAYOUT.offsets[:-1], SCALE), "block_offsets"),
        (lambda: operators._sparse_attention(Q, Q[:, :, :4], Q[:, :, :4], Q, Q, LAYOUT.index, LAYOUT.offsets, SCALE),
         "k is"),
    ],
)  # fmt: skip
def test_shapes_that_would_be_read_beyond_are_refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
