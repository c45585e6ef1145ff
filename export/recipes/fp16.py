"""FP16: half the size, tensor cores everywhere. Norms, timestep sines and the solver's arithmetic stay FP32."""

from dreamactor.export.recipe import TIMESTEP, Recipe

RECIPE = Recipe("fp16", high="fp16", keep_fp32=TIMESTEP, psnr_gate=40.0, snr_gate=35.0)
