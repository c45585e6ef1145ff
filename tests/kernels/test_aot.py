"""Kernels compiled for every architecture without a GPU: no spill, right instructions, within budget, plugin-ready."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from dreamactor.kernels import aot, face, fp8, modulate, sources, static, tiles
from dreamactor.kernels.tiles import Tile

ENTRIES = static.entries()
PLUGINS = ("two_segment", "fp8_attention", "face_attention")


def check(kernel: str, arch: int, size: int, tile: Tile) -> None:
    compiled = aot.compile_kernel(sources.source(kernel, tile, size, arch), arch)
    figures = static.figures(kernel, arch, size, tile, compiled)
    name = static.key(kernel, arch, size, tile)
    assert figures.stack == 0, name
    assert not {"STL", "LDL"} & set(compiled.mix), name
    assert figures.shared <= tiles.SHARED_LIMIT[arch], name
    assert compiled.scratch == 0, name
    assert figures.matrix_instructions == expected_instructions(kernel, arch), name
    assert figures.worse_than(static.load()[name]) is None, name
    if kernel in PLUGINS and not tile.specialized:
        check_plugin_entry(compiled)


def check_plugin_entry(compiled: aot.Compiled) -> None:
    """Inputs as pointers, then int32 scalars, then the output; nothing after; and it still assembles."""
    ptx = aot.plugin_ptx(compiled)
    entry = re.search(r"\.visible \.entry \w+\((.*?)\)", ptx, re.S)
    assert entry is not None
    kinds = re.findall(r"\.param \.(u64|u32|b64|b32)", entry[1])
    assert len(kinds) == compiled.arguments
    pointers = [kind.endswith("64") for kind in kinds]
    assert pointers[-1]
    scalars = pointers.index(False)
    assert all(pointers[:scalars])
    assert not any(pointers[scalars:-1])
    assert len(aot.assemble(ptx, compiled.arch)) > 1000


def test_every_tile_was_compiled_from_these_sources_and_is_within_its_budget() -> None:
    table, kept = static.load(), json.loads(static.TABLE.read_text())
    said = "a kernel changed since: python -m dreamactor.kernels.static --write compiles every tile (some minutes)"
    assert kept["sources"] == static.compiled_sources(), said
    assert set(table) == {static.key(*entry) for entry in ENTRIES}, said
    for entry in ENTRIES:
        kernel, arch, _, _ = entry
        name, figures = static.key(*entry), table[static.key(*entry)]
        assert (figures.stack, figures.shared <= tiles.SHARED_LIMIT[arch]) == (0, True), name
        assert figures.matrix_instructions == expected_instructions(kernel, arch), name


def expected_instructions(kernel: str, arch: int) -> tuple[str, ...]:
    """The tensor cores' instructions in a kernel's code."""
    if kernel == "fp8_attention":
        return ("QGMMA",) if arch == 90 else ("QMMA",)
    return (("HGMMA",) if arch == 90 else ("HMMA",)) * (kernel.endswith("attention") or kernel == "two_segment")


def runs_first(kernel: str, arch: int, size: int, tile: Tile) -> bool:
    """In PyTorch on Hopper at every size; elsewhere at the first, and there in a plugin too."""
    listed, first = tiles.tiles(kernel, arch, size), size == tiles.sizes(kernel, arch)[0]
    in_plugin = next(other for other in listed if not other.specialized)
    return (tile == listed[0] and (first or arch == 90)) or (tile == in_plugin and first)


@pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if runs_first(*entry)], ids=lambda entry: static.key(*entry)
)
def test_what_runs_first(entry: tuple[str, int, int, Tile]) -> None:
    """The slow tier has the rest."""
    check(*entry)


@pytest.mark.parametrize(("arch", "target"), [(86, "sm_86"), (87, "sm_87"), (121, "sm_121a")])
def test_a_gpu_that_shares_a_table_has_code_of_its_own(arch: int, target: str) -> None:
    table = tiles.table_key(arch)
    assert table is not None
    tile = tiles.tiles("norm_rope", table, 64)[0]
    compiled = aot.compile_kernel(sources.norm_rope(tile, 64), arch)
    assert re.findall(r"^\.target (\w+)", compiled.ptx, re.M) == [target]
    assert compiled.arch == arch
    assert compiled.resources[1] == 0
    assert len(aot.assemble(compiled.ptx, arch)) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: static.key(*entry))
def test_every_tile(entry: tuple[str, int, int, Tile]) -> None:
    check(*entry)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("arch", tiles.ARCHITECTURES)
def test_strided_entry_compiles_as_well(arch: int, dtype: str) -> None:
    """PyTorch's entry has more arguments and must not spill for them."""
    for size in tiles.sizes("two_segment", arch):
        tile = next(tile for tile in tiles.tiles("two_segment", arch, size) if not tile.specialized)
        assert aot.compile_kernel(sources.two_segment_strided(tile, size, dtype), arch).resources[1] == 0


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("arch", [90, *(pytest.param(arch, marks=pytest.mark.slow) for arch in (89, 120))])
def test_quantising_kernels_do_not_spill(arch: int, size: int) -> None:
    """Those without a tile table: norm and rotary to E4M3, and the two quantising plugins' entry."""
    for source in (sources.norm_rope_fp8(size), *(sources.quantize(transpose, size) for transpose in (False, True))):
        compiled = aot.compile_kernel(source, arch)
        assert compiled.resources[1] == 0, compiled.name
        assert compiled.scratch == 0


def strided(kernel: Any, pointers: dict[str, str], **constants: Any) -> aot.Source:
    """A PyTorch entry with every stride an argument and a multiple of 16."""
    names = [name for name in kernel.arg_names if name not in pointers and name not in constants]
    types = {**pointers, **dict.fromkeys(names, "i32")}
    strides = tuple(name for name in names if name.endswith(("_batch", "_head", "_row")))
    return aot.Source(kernel, types, constants, 8, 2, strides)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_other_pytorch_entries_compile(arch: int) -> None:
    """What only PyTorch launches: strided face attention, strided quantisation, modulation without a gate."""
    half = dict.fromkeys(("p_q", "p_k", "p_v", "p_out"), "*bf16")
    blocks = {"WINDOW": 1, "SCALE_LOG2": 0.1, "SIZE": 128, "BLOCK_M": 128, "BLOCK_N": 16}
    found = [strided(face.face_kernel, half, **blocks)]
    rows = {name: "*bf16" for name in modulate.modulate_kernel.arg_names if name.startswith("p_")}
    found.append(strided(modulate.modulate_kernel, rows, EPS=1e-6, GATED=False, BLOCK_M=1, BLOCK_C=4096))
    if arch >= 89:
        quantised = {"p_x": "*bf16", "p_offset": "*fp32", "p_out": "*fp8e4nv", "p_scale": "*fp32"}
        found += [
            strided(fp8.quantize_kernel, quantised, OFFSET=offset, TRANSPOSE=not offset, SIZE=128)
            for offset in (False, True)
        ]
    for source in found:
        assert aot.compile_kernel(source, arch).resources[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kernel", tiles.kernels())
def test_sizes_of_one_compile(kernel: str) -> None:
    """Triton makes an integer argument of 1 a constant: every kernel must compile with each of its sizes so."""
    size = tiles.sizes(kernel, 90)[0]
    whole = sources.source(kernel, tiles.tiles(kernel, 90, size)[-1], size, 90)
    for name in (name for name, kind in whole.types.items() if kind == "i32" and not name.endswith("_row")):
        types = {other: kind for other, kind in whole.types.items() if other != name}
        one = dataclasses.replace(whole, types=types, constants={**whole.constants, name: 1}, divisible=())
        assert aot.compile_kernel(one, 90).cubin


def test_figures_cover_the_tile_table() -> None:
    assert set(static.load()) == {static.key(*entry) for entry in ENTRIES}


def test_a_worsening_is_seen() -> None:
    good = static.Figures(200, 0, 1000, ("HGMMA",), 500, 1.0, 1.0, 1000.0)
    assert good.worse_than(good) is None
    assert "spills" in str(static.Figures(255, 8, 1000, ("HGMMA",), 500, 1.0, 1.0, 1000.0).worse_than(good))
    assert "issue" in str(static.Figures(200, 0, 1000, ("HGMMA",), 600, 1.0, 1.0, 1200.0).worse_than(good))
    assert "HMMA" in str(static.Figures(200, 0, 1000, ("HMMA",), 500, 1.0, 1.0, 1000.0).worse_than(good))
    assert "exponentials" in str(static.Figures(200, 0, 1000, ("HGMMA",), 500, 1.0, 1.2, 1000.0).worse_than(good))
    assert "registers" in str(static.Figures(216, 0, 1000, ("HGMMA",), 500, 1.0, 1.0, 1000.0).worse_than(good))
    short = static.Figures(32, 0, 0, (), instructions=400)
    assert short.worse_than(short) is None
    assert "instructions" in str(static.Figures(32, 0, 0, (), instructions=440).worse_than(short))
    without_loop = static.Figures(200, 0, 1000, ("HGMMA",), instructions=400)
    without_exp2 = dataclasses.replace(good, exp2=None)
    for now, before in ((without_loop, good), (good, without_loop), (without_exp2, good), (good, without_exp2)):
        assert "came or went" in str(now.worse_than(before))
    assert "exponentials" in str(good.worse_than(dataclasses.replace(good, exp2=0.0)))
    for figures in static.load().values():
        assert (figures.instructions is None) != (figures.loop_instructions is None)


def test_a_scratch_user_is_refused() -> None:
    ptx = ".visible .entry k(\n\t.param .u64 a,\n\t.param .u64 scratch\n)\n{ ld.param.u64 %rd1, [scratch]; }"
    compiled = aot.Compiled("k", 90, ptx, b"", 0, 8, 4, 1)
    with pytest.raises(ValueError, match="scratch"):
        aot.plugin_ptx(compiled)
