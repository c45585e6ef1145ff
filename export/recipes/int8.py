"""INT8: linear and convolution layers with static scales, attention in FP16; on the CPU what is faster there."""

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
CPU = Recipe("int8", quantized="int8", exclude=EDGES, dynamic=True, psnr_gate=30.0, snr_gate=15.0)
