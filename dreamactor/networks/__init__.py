"""DreamActor-M1's networks in PyTorch, written from the paper (arXiv 2504.01724)."""

from dreamactor.networks.checkpoint import Networks, StoredWeights, build, build_meta, load, save

__all__ = ["Networks", "StoredWeights", "build", "build_meta", "load", "save"]
