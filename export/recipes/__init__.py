"""One file a recipe; `recipe(name)` finds it."""

from dataclasses import replace

from dreamactor.errors import InputError
from dreamactor.export.recipe import Recipe
from dreamactor.export.recipes import bf16, fp8, fp16, fp32, int8

RECIPES: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in (fp32, fp16, bf16, fp8, int8)}
TURING = "sm75"  # for which TensorRT-RTX compiles no FP32 matrix product


def recipe(name: str, target: str = "") -> Recipe:
    """The recipe called `name`, in the form for `target` where there is one.

    Raises InputError listing the choices, or where the target cannot have it.
    """
    if name not in RECIPES:
        raise InputError(f"There is no precision '{name}'; choose one of {', '.join(RECIPES)}.")
    if name == "int8" and target == "cpu":
        return int8.CPU
    if target == TURING:
        if name == "fp32":
            raise InputError("TensorRT-RTX has no FP32 matrix products on sm75: use fp16 or int8.")
        return replace(RECIPES[name], fp32_products=False)
    return RECIPES[name]


__all__ = ["RECIPES", "Recipe", "recipe"]
