"""FP8 (E4M3): linear, convolution and attention, for SM89 and later; what is not quantised is FP16.

Attention has Q/DQ on Q, K, V and the softmax output, which is what makes TensorRT fuse it in FP8.
"""

from dreamactor.export.recipe import EDGES, TIMESTEP, Recipe

RECIPE = Recipe(
    "fp8",
    high="fp16",
    quantized="fp8",
    attention=True,
    exclude=EDGES,
    keep_fp32=TIMESTEP,
    psnr_gate=32.0,
    snr_gate=15.0,
)
