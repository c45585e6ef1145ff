"""INT8: linear and convolution layers with static scales, attention in FP16; on the CPU what is faster there."""

from dreamactor.export.recipe import EDGES, TIMESTEP, Recipe

RECIPE = Recipe(
    "int8",
    high="fp16",
    quantized="int8",
    exclude=EDGES,
    keep_fp32=TIMESTEP,
    ranges="entropy",
    psnr_gate=30.0,
    snr_gate=15.0,
)

# ONNX Runtime runs Q/DQ as dequantise-then-float, which gains nothing; integer matrix products need scales at run time.
# Only the denoiser has any; convolutional networks stay FP32. A step of puppet's denoiser on one thread of a busy
# machine, median processor time (2026-11-22): FP32 165 ms, rewritten 134, INT8 of the rewritten graph 84.
CPU = Recipe("int8", quantized="int8", exclude=EDGES, dynamic=True, unsigned=True, psnr_gate=30.0, snr_gate=15.0)
