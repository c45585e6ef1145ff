"""What runs without gradients is not compiled: its batches have other shapes than training's, and on a GPU the kernels
run there, which leave little to fuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def eager(function: Function) -> Function:
    """The same function, in which compiled modules run as they were written and no gradients are kept."""
    return cast(Function, torch.no_grad()(torch.compiler.set_stance("force_eager")(function)))
