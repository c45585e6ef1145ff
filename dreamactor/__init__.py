"""DreamActor-M1 from checkpoint to served, quantised engines."""

import os

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime's wheel reports its use; read when it is imported
