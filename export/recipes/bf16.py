"""BF16: FP16's size with FP32's range, for weights that overflow FP16; eight bits of precision."""

from dreamactor.export.recipe import TIMESTEP, Recipe

RECIPE = Recipe("bf16", high="bf16", keep_fp32=TIMESTEP, psnr_gate=40.0, snr_gate=22.0)
