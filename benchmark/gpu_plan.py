"""Which cases the GPU check runs: those only checked, those timed as well, and small ones for the sanitizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dreamactor.benchmark.gpu_attention import (
    REFERENCE_TOKENS,
    attention,
    face_attention,
    fp8_attention,
    sparse_attention,
)
from dreamactor.benchmark.gpu_cases import Case
from dreamactor.benchmark.gpu_rows import modulate_norm, norm_rope, norm_rope_fp8

bf16, fp16 = torch.bfloat16, torch.float16
Make = Callable[[], Case]
TIMED: dict[str, list[Make]] = {
    "two_segment": [partial(attention, n, REFERENCE_TOKENS, 32, d, bf16) for n in (16384, 48000) for d in (128, 64)],
    "fp8_attention": [partial(fp8_attention, n, REFERENCE_TOKENS, 32) for n in (16384, 48000)],
    "norm_rope": [
        partial(norm_rope, 48000, 32, 128),
        partial(norm_rope, 48000, 32, 64),
        partial(norm_rope_fp8, 48000, 32, 128),
    ],
    "face_attention": [partial(face_attention, 19, 2400, 32, 128)],
    "sparse_attention": [partial(sparse_attention, (19, 40, 60), 32, 128)],
    "modulate_norm": [partial(modulate_norm, 19, 2400, 4096)],
}
_LENGTHS = ((1000, 0, bf16), (1, 7, fp16), (4097, 2400, fp16), (45600, 4800, bf16), (160000, 2400, bf16))
_GRIDS = (((5, 11, 13), 64), ((5, 11, 13), 128), ((67, 40, 60), 128))
_FAR: dict[str, Any] = {"timed": False, "width": 12288}  # 180000 such rows end beyond 2^31 elements
_ATTENTION: tuple[dict[str, Any], ...] = ({"inputs": "outliers"}, {"inputs": "large"}, {"inputs": "offset"})
_KERNELS: tuple[dict[str, Any], ...] = (*_ATTENTION, {"dtype": fp16})
_ROWS: tuple[dict[str, Any], ...] = ({"inputs": "outliers"}, {"inputs": "large"}, {"dtype": fp16})
CHECKED: dict[str, list[Make]] = {
    "two_segment": [
        *(partial(attention, n, r, 2, d, dtype, False) for d in (128, 64) for n, r, dtype in _LENGTHS),
        partial(attention, 301, 45, 3, 128, bf16, False, batch=2),
        partial(attention, 301, 45, 3, 128, bf16, False, keys=0),  # references only
        *(partial(attention, 1001, 130, 3, 128, bf16, False, **given) for given in _ATTENTION),
        partial(attention, 180000, 0, 2, 128, bf16, **_FAR),
    ],
    "fp8_attention": [
        *(partial(fp8_attention, n, r, 2, False) for n, r in ((1, 7), (1000, 0), (4097, 130), (160000, 2400))),
        partial(fp8_attention, 301, 45, 3, False, batch=2),
        partial(fp8_attention, 301, 45, 3, False, keys=0),
        *(partial(fp8_attention, 1001, 130, 3, False, **given) for given in _KERNELS),
        partial(fp8_attention, 180000, 0, 2, **_FAR),
    ],
    "norm_rope": [
        *(partial(norm_rope, n, 3, d, False) for n in (1, 1001, 160000) for d in (64, 128)),
        *(partial(norm_rope, n, 3, 128, batch=2, **far) for n, far in ((301, {"timed": False}), (180000, _FAR))),
        *(partial(norm_rope, 301, 3, 128, False, **given) for given in _ROWS),
        *(partial(norm_rope_fp8, n, 3, 128, False) for n in (1, 1001, 160000)),
        partial(norm_rope_fp8, 301, 3, 128, False, batch=2, shifted=True),
        *(partial(norm_rope_fp8, 301, 3, 128, False, **given) for given in _ROWS),
    ],
    "face_attention": [
        *(partial(face_attention, f, p, 3, d, False) for f, p in ((1, 1), (19, 77)) for d in (64, 128)),
        partial(face_attention, 5, 77, 3, 128, False, batch=2),
        *(partial(face_attention, 5, 77, 3, 128, False, **given) for given in _KERNELS),
        partial(face_attention, 67, 2400, 2, 128, False),
        partial(face_attention, 75, 2400, 2, 128, **_FAR),
    ],
    "sparse_attention": [
        *(partial(sparse_attention, grid, 2, d, False) for grid, d in _GRIDS),
        partial(sparse_attention, (5, 11, 13), 3, 128, False, batch=2),
        *(partial(sparse_attention, (5, 11, 13), 3, 128, False, **given) for given in _KERNELS),
        partial(sparse_attention, (75, 40, 60), 2, 128, **_FAR),
    ],
    "modulate_norm": [
        *(partial(modulate_norm, f, p, c, False) for f, p in ((1, 1), (19, 77)) for c in (96, 256, 4096)),
        partial(modulate_norm, 5, 77, 256, False, batch=2),
        partial(modulate_norm, 5, 77, 4096, False, batch=2, gated=False),
        *(partial(modulate_norm, 5, 77, 1024, False, **given) for given in _ROWS),
        partial(modulate_norm, 67, 2400, 1024, False),
        partial(modulate_norm, 225, 2400, 4096, False),  # ends beyond 2^31 elements
    ],
}
RAGGED: dict[str, list[Make]] = {  # for the sanitizer: small, but more than a block each way, and no multiple
    "two_segment": [partial(attention, 301, 45, 3, d, bf16, False, batch=2) for d in (128, 64)],
    "fp8_attention": [partial(fp8_attention, 301, 45, 3, False, batch=2)],
    "norm_rope": [
        partial(norm_rope, 301, 3, 128, False, batch=2), partial(norm_rope, 301, 3, 64, False, batch=2),
        partial(norm_rope_fp8, 301, 3, 128, False, batch=2, shifted=True),
    ],
    "face_attention": [partial(face_attention, 5, 77, 3, d, False, batch=2) for d in (128, 64)],
    "sparse_attention": [
        partial(sparse_attention, (5, 11, 13), 3, d, False, batch=2, references=45) for d in (128, 64)
    ],
    "modulate_norm": [partial(modulate_norm, 5, 77, 96, False, batch=2, gated=gated) for gated in (True, False)],
}  # fmt: skip


def names(only: str = "", timed: bool = True) -> list[str]:
    """The names of the cases that enter a report, of kernels whose name contains `only`."""
    plans = (CHECKED, TIMED) if timed else (CHECKED,)
    return [name_of(make) for plan in plans for kernel, makes in plan.items() if only in kernel for make in makes]


def name_of(make: Make) -> str:
    """A case's name before it is made."""
    assert isinstance(make, partial)
    given = [*map(str, make.args), *(f"{name}={value}" for name, value in make.keywords.items())]
    return f"{make.func.__name__}({', '.join(given)})"
