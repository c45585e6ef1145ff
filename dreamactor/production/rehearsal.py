"""At which size a preset is recorded, judged and compared in FP32 on the CPU: its own, or what can be waited for.

A step of `m1` at its own size is 3.6 PFLOP, and a set is judged on some hundred of them. Weights, activations per token
and the solver are those of the full size; what a smaller picture cannot show is said in the report.
"""

from __future__ import annotations

import math
from dataclasses import replace

from dreamactor.presets import SPATIAL_STRIDE, Preset, latent_frames

STEP = 2e13  # floating-point operations: some seconds of a large CPU
FRAMES, STEPS, SMALLEST = 17, 4, 64


def rehearsal(preset: Preset) -> Preset:
    """`preset` itself when a denoising step takes at most `STEP` operations, else with a smaller picture (multiples of
    16 pixels, its proportions), shorter segments and fewer steps."""
    if operations(preset) <= STEP:
        return preset
    short = replace(preset, segment_frames=min(FRAMES, preset.segment_frames), steps=min(STEPS, preset.steps))
    scale = min(1.0, math.sqrt(STEP / operations(short)))
    height, width = (max(SMALLEST, int(side * scale) // 16 * 16) for side in (preset.height, preset.width))
    return replace(short, height=height, width=width)


def operations(preset: Preset) -> float:
    """Floating-point operations of a denoising step with one reference and the preset's guidance: matrix products
    (self- and face attention, 8 dim^2 a layer, and the feed-forward) and its self-attention."""
    network = preset.transformer
    side = SPATIAL_STRIDE * network.patch
    tokens = (1 + latent_frames(preset.segment_frames)) * (preset.height // side) * (preset.width // side)
    weights = network.depth * network.dim**2 * (8 + 2 * network.ffn_ratio)
    return float(preset.rows) * (2 * weights * tokens + 4 * network.depth * network.dim * tokens**2)


def describe(preset: Preset) -> str:
    """One sentence on what differs; "" where nothing does."""
    small = rehearsal(preset)
    if small == preset:
        return ""
    return (
        f"recorded and judged at {small.width}x{small.height}, {small.segment_frames} frames a segment and "
        f"{small.steps} steps; {preset.width}x{preset.height} would take days on a CPU"
    )
