"""ONNX to engine for every target, the store and manifest of engines, and the sessions that run them. No torch here."""

from dreamactor.engines.manifest import FileRecord, Manifest, NetworkRecord
from dreamactor.engines.session import Session, TensorSpec
from dreamactor.engines.set_writing import EngineFiles, write_set
from dreamactor.engines.sets import Engines, open_engines, read_manifest
from dreamactor.interfaces import NETWORKS

__all__ = [
    "NETWORKS",
    "EngineFiles",
    "Engines",
    "FileRecord",
    "Manifest",
    "NetworkRecord",
    "Session",
    "TensorSpec",
    "open_engines",
    "read_manifest",
    "write_set",
]
