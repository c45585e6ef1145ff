"""The pipeline: prepare, denoise, finish. Runs built engines and imports no torch."""

from typing import TYPE_CHECKING, Any

from dreamactor.pipeline.events import Event
from dreamactor.pipeline.options import Options

if TYPE_CHECKING:
    from dreamactor.pipeline.animator import Animator

__all__ = ["Animator", "Event", "Options"]


def __getattr__(name: str) -> Any:
    """The animator when it is asked for: training needs the solver alone, and none of what reads and writes media."""
    if name == "Animator":
        from dreamactor.pipeline.animator import Animator

        return Animator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
