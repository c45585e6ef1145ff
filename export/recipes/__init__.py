"""One file a recipe; `recipe(name)` finds it."""

from dreamactor.errors import InputError
from dreamactor.export.recipe import Recipe
from dreamactor.export.recipes import bf16, fp8, fp16, fp32, int8

RECIPES: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in (fp32, fp16, bf16, fp8, int8)}


def recipe(name: str, target: str = "") -> Recipe:
    """The recipe called `name`, in the form for `target` where there is one; raises InputError listing the choices."""
    if name not in RECIPES:
        raise InputError(f"There is no precision '{name}'; choose one of {', '.join(RECIPES)}.")
    if name == "int8" and target == "cpu":
        cpu: Recipe = int8.CPU
        return cpu
    return RECIPES[name]


__all__ = ["RECIPES", "Recipe", "recipe"]
