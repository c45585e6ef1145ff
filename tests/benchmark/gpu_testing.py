"""Small cases of the GPU check, one of each kernel and kind, and the tiles they run with on the CPU."""

from __future__ import annotations

from functools import partial

import torch

from dreamactor.benchmark import gpu_attention, gpu_plan, gpu_rows
from dreamactor.kernels.tiles import Tile

LATER = 1e12
TILES = {
    "norm_rope": (Tile(8, 2, 4, 1), Tile(16, 1, 4, 1)), "modulate_norm": (Tile(4, 0, 4, 1),),
    "fp8_attention": (Tile(64, 64, 4, 1),), "face_attention": (Tile(16, 0, 4, 1),),
    "two_segment": (Tile(32, 16, 4, 1),), "sparse_attention": (Tile(128, 64, 4, 1),),
}  # fmt: skip
SEGMENTS = partial(gpu_attention.attention, 70, 9, 2, 64, torch.bfloat16, timed=False)
FP8 = partial(gpu_attention.fp8_attention, 70, 20, 2, timed=False)
ROPE = partial(gpu_rows.norm_rope, 11, 3, 64, timed=False)
ROPE_FP8 = partial(gpu_rows.norm_rope_fp8, 150, 2, 64, timed=False)
FACE = partial(gpu_attention.face_attention, 3, 19, 3, 64, timed=False)
SPARSE = partial(gpu_attention.sparse_attention, (3, 5, 6), 2, 64, timed=False, references=33)
MODULATE = partial(gpu_rows.modulate_norm, 3, 7, 96, timed=False)
SMALL: dict[str, gpu_plan.Make] = {
    "two_segment": partial(gpu_attention.attention, 70, 9, 2, 64, torch.float16, timed=False, batch=2, width=400),
    "fp8_attention": partial(gpu_attention.fp8_attention, 130, 20, 2, timed=False, batch=2),
    "norm_rope": partial(gpu_rows.norm_rope, 11, 3, 64, timed=False, batch=2),
    "norm_rope to E4M3": partial(gpu_rows.norm_rope_fp8, 150, 2, 64, timed=False, batch=2, shifted=True),
    "face_attention": partial(gpu_attention.face_attention, 3, 19, 3, 64, timed=False, batch=2),
    "sparse_attention": partial(gpu_attention.sparse_attention, (3, 5, 6), 2, 64, timed=False, batch=2, references=33),
    "modulate_norm": partial(gpu_rows.modulate_norm, 3, 7, 96, timed=False, batch=2),
    "modulate_norm ungated": partial(gpu_rows.modulate_norm, 3, 7, 96, timed=False, gated=False),
    "two_segment on references": partial(SEGMENTS, keys=0),
    "fp8_attention on references": partial(FP8, keys=0),
    "fp8_attention of one token": partial(gpu_attention.fp8_attention, 1, 7, 2, timed=False),
    "fp8_attention far": partial(FP8, width=400),
    "face_attention far": partial(FACE, width=400),
    "sparse_attention far": partial(SPARSE, width=400),
    **{
        f"{name} {inputs}": partial(make, inputs=inputs)
        for name, make in (("two_segment", SEGMENTS), ("fp8_attention", FP8), ("face", FACE), ("sparse", SPARSE))
        for inputs in ("outliers", "large", "offset")
    },
    **{
        f"{name} {inputs}": partial(make, inputs=inputs)
        for name, make in (("norm_rope", ROPE), ("norm_rope to E4M3", ROPE_FP8), ("modulate_norm", MODULATE))
        for inputs in ("outliers", "large")
    },
    **{
        f"{name} float16": partial(make, dtype=torch.float16)
        for name, make in (
            ("fp8_attention", FP8), ("face", FACE), ("sparse", SPARSE), ("norm_rope", ROPE),
            ("norm_rope to E4M3", ROPE_FP8), ("modulate_norm", MODULATE),
        )
    },
}  # fmt: skip
