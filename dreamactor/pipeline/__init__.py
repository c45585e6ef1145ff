"""The pipeline: prepare, denoise, finish. Runs built engines and imports no torch."""

from dreamactor.pipeline.animator import Animator
from dreamactor.pipeline.events import Event
from dreamactor.pipeline.options import Options

__all__ = ["Animator", "Event", "Options"]
