"""INT8: linear and convolution layers with static scales, attention in FP16; on the CPU what is faster there."""

from dataclasses import replace
from pathlib import Path

from dreamactor.export.recipe import EDGES, Recipe

RECIPE = Recipe(
    "int8",
    high="fp16",
    quantized="int8",
    exclude=EDGES,
    keep_fp32=("transformer.time_in*",),
    ranges="entropy",
    psnr_gate=30.0,
    snr_gate=15.0,
)

# ONNX Runtime runs Q/DQ as dequantise-then-float, which gains nothing; integer matrix products need scales at run time.
# Only the denoiser has any; convolutional networks stay FP32. A step of puppet's denoiser on one thread of a busy
# machine, median processor time (2026-11-22): FP32 165 ms, rewritten 134, INT8 of the rewritten graph 84.
CPU = Recipe("int8", quantized="int8", exclude=EDGES, dynamic=True, psnr_gate=30.0, snr_gate=15.0)

VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}


def for_processor(flags: set[str] | None = None) -> Recipe:
    """`CPU` for a processor with these features; None asks this machine for its own.

    Without VNNI, ONNX Runtime adds pairs of signed weights' products in 16 bits, where they overflow: 30 dB in place of
    37 for a step of puppet's denoiser, on an EPYC of AVX2 (2026-11-28). Unsigned ones it multiplies exactly, in 1.02
    [0.99, 1.09] of the time there; with VNNI it has the fast instructions for signed ones alone.
    """
    return replace(CPU, unsigned=not VNNI & (_flags() if flags is None else flags))


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
