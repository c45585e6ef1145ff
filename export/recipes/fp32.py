"""FP32: the reference every other recipe is compared with."""

from dreamactor.export.recipe import Recipe

RECIPE = Recipe("fp32")
