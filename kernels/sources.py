"""Each kernel as it is compiled ahead of time: argument types, constants, launch options, by tile and head size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dreamactor.kernels import face, fp8, modulate, rotary, sparse, two_segment
from dreamactor.kernels.aot import Source
from dreamactor.kernels.reference import FP8_BLOCK
from dreamactor.kernels.tiles import Tile

_LENGTHS = ("heads", "tokens", "key_tokens", "reference_tokens")
_SCALE_LOG2 = two_segment.LOG2_E * 128**-0.5  # any value: it is a constant of the compiled kernel


def flash_attention(tile: Tile, size: int, dtype: str = "bf16", scale: float | None = None) -> Source:
    """The plugin's entry, or a kernel with descriptors where the tile says so."""
    if tile.specialized:
        return _specialized(tile, size, dtype)
    pointers = ("p_q", "p_k", "p_v", "p_k_reference", "p_v_reference", "p_out")
    scale_log2 = _SCALE_LOG2 if scale is None else two_segment.LOG2_E * scale
    return Source(
        two_segment.flash_attention_plugin,
        {**dict.fromkeys(pointers, f"*{dtype}"), **dict.fromkeys(_LENGTHS, "i32")},
        {**_blocks(tile, size), "SCALE_LOG2": scale_log2},
        tile.num_warps, tile.num_stages,
    )  # fmt: skip


def two_segment_strided(tile: Tile, size: int, dtype: str = "bf16") -> Source:
    """PyTorch's entry, with strides."""
    names = two_segment.two_segment_kernel.arg_names
    pointers = {name: f"*{dtype}" for name in names if name.startswith("p_")}
    strides = tuple(name for name in names if name.endswith(("_batch", "_head", "_row")) and name not in pointers)
    return Source(
        two_segment.two_segment_kernel,
        {**pointers, **dict.fromkeys((*strides, *_LENGTHS), "i32")},
        {**_blocks(tile, size), "SCALE_LOG2": _SCALE_LOG2},
        tile.num_warps, tile.num_stages, strides,
    )  # fmt: skip


_DESCRIPTORS = ("q_desc", "k_desc", "v_desc", "k_reference_desc", "v_reference_desc")


def _described(element: str, bits: int, *blocks: tuple[int, int]) -> dict[str, str]:
    """Types of Gluon's descriptors of queries, keys and values, by the last two dimensions of their blocks."""
    from dreamactor.kernels import rings

    kinds = [f"tensordesc<{element}[1, 1, {rows}, {columns}],{rings.layout(bits)!r}>" for rows, columns in blocks]
    return dict(zip(_DESCRIPTORS, (*kinds, *kinds[1:]), strict=True))


def _specialized(tile: Tile, size: int, dtype: str) -> Source:
    from dreamactor.kernels import specialized

    block = (tile.block_n, size)
    types = {**_described(dtype, 16, (64, size), block, block), "p_out": f"*{dtype}", **dict.fromkeys(_LENGTHS, "i32")}
    constants = {**_blocks(tile, size), "SCALE_LOG2": _SCALE_LOG2, "STAGES": tile.num_stages}
    return Source(specialized.specialized_kernel, types, constants, 4, 1)


def _specialized_sparse(tile: Tile, size: int, dtype: str) -> Source:
    from dreamactor.kernels import specialized

    dense = _specialized(tile, size, dtype)
    kernel = specialized.specialized_sparse_kernel
    lists = {"p_spans": "*i32", "p_counts": "*i32", "p_offsets": "*i32", "width": "i32"}
    types = {name: {**dense.types, **lists}[name] for name in kernel.arg_names if name not in dense.constants}
    return Source(kernel, types, dense.constants, 4, 1)


def _specialized_fp8(tile: Tile, size: int, dtype: str) -> Source:
    from dreamactor.kernels import specialized_fp8

    kernel = specialized_fp8.specialized_fp8_kernel
    scales = {name: "*fp32" for name in kernel.arg_names if name.endswith("_scale")}
    types = {
        **_described("fp8e4nv", 8, (64, size), (FP8_BLOCK, size), (size, FP8_BLOCK)), **scales, "p_out": f"*{dtype}",
        **dict.fromkeys(_LENGTHS, "i32"),
    }  # fmt: skip
    constants = {"SIZE": size, "BLOCK_M": tile.block_m, "SCALE_LOG2": _SCALE_LOG2, "STAGES": tile.num_stages}
    return Source(kernel, types, constants, 4, 1)


def fp8_attention(tile: Tile, size: int, dtype: str = "bf16", scale: float | None = None, arch: int = 90) -> Source:
    """FP8 attention, the plugin's entry and PyTorch's, or PyTorch's alone where the tile is specialised."""
    if tile.specialized:
        return _specialized_fp8(tile, size, dtype)
    names = fp8.fp8_attention_kernel.arg_names
    scales = {name: "*fp32" for name in names if name.endswith("_scale")}
    pointers = {name: "*fp8e4nv" for name in names if name.startswith("p_")} | scales | {"p_out": f"*{dtype}"}
    scale_log2 = _SCALE_LOG2 if scale is None else two_segment.LOG2_E * scale
    return Source(
        fp8.fp8_attention_kernel, {**pointers, **dict.fromkeys(_LENGTHS, "i32")},
        {**_blocks(tile, size), "SCALE_LOG2": scale_log2, "IMPRECISE": fp8.imprecise(arch, tile)},
        tile.num_warps, tile.num_stages,
    )  # fmt: skip


def quantize(transpose: bool, size: int, dtype: str = "bf16") -> Source:
    """The quantising plugins' entry."""
    types = {"p_x": f"*{dtype}", "p_offset": "*fp32", "tokens": "i32", "p_out": "*fp8e4nv", "p_scale": "*fp32"}
    return Source(fp8.quantize_plugin, types, {"TRANSPOSE": transpose, "SIZE": size}, 8, 1)


def face_attention(
    tile: Tile, size: int, dtype: str = "bf16", window: int = 1, group: int = 4, scale: float | None = None
) -> Source:
    """Face attention, the plugin's entry."""
    pointers = dict.fromkeys(("p_q", "p_k", "p_v", "p_out"), f"*{dtype}")
    constants = {"SIZE": size, "BLOCK_M": tile.block_m, "BLOCK_N": face.key_block(window, group), "WINDOW": window}
    return Source(
        face.face_attention_plugin, {**pointers, **dict.fromkeys(("heads", "frames", "queries", "group"), "i32")},
        {**constants, "SCALE_LOG2": _SCALE_LOG2 if scale is None else two_segment.LOG2_E * scale},
        tile.num_warps, tile.num_stages,
    )  # fmt: skip


def sparse_attention(tile: Tile, size: int, dtype: str = "bf16") -> Source:
    """Block-sparse attention."""
    if tile.specialized:
        return _specialized_sparse(tile, size, dtype)
    names = sparse.sparse_kernel.arg_names
    lists = dict.fromkeys(("p_spans", "p_counts", "p_offsets"), "*i32")
    pointers = {name: f"*{dtype}" for name in names if name.startswith("p_")} | lists
    strides = tuple(name for name in names if name.endswith(("_batch", "_head", "_row")))
    lengths = ("heads", "tokens", "reference_tokens", "width")
    return Source(
        sparse.sparse_kernel, {**pointers, **dict.fromkeys((*strides, *lengths), "i32")},
        {**_blocks(tile, size), "SCALE_LOG2": _SCALE_LOG2}, tile.num_warps, tile.num_stages, strides,
    )  # fmt: skip


def norm_rope(tile: Tile, size: int, dtype: str = "bf16") -> Source:
    """Norm, rotary and layout."""
    pointers = {**dict.fromkeys(("p_x", "p_weight", "p_out"), f"*{dtype}"), "p_cos": "*fp32", "p_sin": "*fp32"}
    scalars = ("heads", "tokens", "x_batch", "x_row")
    constants = {"EPS": 1e-6, "SIZE": size, "BLOCK": tile.block_m, "HEADS": tile.block_n}
    return Source(
        rotary.norm_rope_kernel, {**pointers, **dict.fromkeys(scalars, "i32")}, constants,
        tile.num_warps, tile.num_stages, ("x_batch", "x_row"),
    )  # fmt: skip


def norm_rope_fp8(size: int, dtype: str = "bf16") -> Source:
    """Norm and rotary to E4M3."""
    pointers = {**dict.fromkeys(("p_x", "p_weight"), f"*{dtype}"), "p_out": "*fp8e4nv"}
    others = dict.fromkeys(("p_cos", "p_sin", "p_offset", "p_scale"), "*fp32")
    scalars = dict.fromkeys(("heads", "tokens", "x_batch", "x_row"), "i32")
    constants = {"EPS": 1e-6, "OFFSET": True, "SIZE": size, "BLOCK": FP8_BLOCK}
    constants |= {"HEADS": rotary.FP8_HEADS, "STAGES": rotary.FP8_STAGES}
    types = {**pointers, **others, **scalars}
    return Source(rotary.norm_rope_fp8_kernel, types, constants, rotary.FP8_WARPS, 3, ("x_batch", "x_row"))


def modulate_norm(tile: Tile, size: int, dtype: str = "bf16") -> Source:
    """Gated residual, LayerNorm and modulation of rows of `size` channels."""
    names = modulate.modulate_kernel.arg_names
    pointers = {name: f"*{dtype}" for name in names if name.startswith("p_")}
    rows = ("gate_row", "shift_row", "scale_row")
    constants = {"EPS": 1e-6, "GATED": True, "BLOCK_M": tile.block_m, "BLOCK_C": size}
    return Source(
        modulate.modulate_kernel,
        {**pointers, **dict.fromkeys(("rows", "rows_per_frame", "channels", *rows), "i32")}, constants,
        tile.num_warps, tile.num_stages, ("channels", *rows),
    )  # fmt: skip


def _blocks(tile: Tile, size: int) -> dict[str, Any]:
    return {"SIZE": size, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n}


def source(kernel: str, tile: Tile, size: int, arch: int) -> Source:
    """What the tile table's entry `tile` of `kernel` compiles to."""
    if kernel == "fp8_attention":
        return fp8_attention(tile, size, arch=arch)
    return SOURCES[kernel](tile, size)


SOURCES: dict[str, Callable[[Tile, int], Source]] = {
    "two_segment": flash_attention,
    "face_attention": face_attention,
    "sparse_attention": sparse_attention,
    "norm_rope": norm_rope,
    "modulate_norm": modulate_norm,
}
