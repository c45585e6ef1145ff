"""What the processor of this machine multiplies exactly: who has no VNNI must not be given signed 8-bit weights.

ONNX Runtime adds pairs of signed weights' products in 16 bits where there are no such instructions, and they overflow:
30 dB in place of 37 for a step of puppet's denoiser, on an EPYC of AVX2 (2026-11-28). Unsigned ones it multiplies
exactly everywhere, in 1.02 [0.99, 1.09] of the time there; with VNNI it has the fast instructions for signed ones
alone. Its own way out, `session.x64quantprecision`, takes these from every x86 processor, and refuses a graph in which
two products share a weight (1.31.1).
"""

from __future__ import annotations

import functools
from pathlib import Path

VNNI = "vnni"  # the `architecture` of a network that is right only where there are these instructions
_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}


@functools.cache
def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this x86 processor is known to have VNNI: False where the system does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return not _FLAGS.isdisjoint(flags.split())
