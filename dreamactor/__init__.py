"""DreamActor-M1 from checkpoint to served, quantised engines."""

__version__ = "0.1.0"
