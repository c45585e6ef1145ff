"""Whether a device multiplies in bfloat16; a processor that does not emulates it, up to fifty times slower."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether matrix products of bfloat16 are at least as fast as those of float32 on a device."""
    if device.type != "cpu":
        return True
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
