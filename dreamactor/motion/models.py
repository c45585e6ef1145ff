"""The pretrained landmark models, run by LiteRT on the CPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import MissingDependency
from dreamactor.motion.pose import Float
from dreamactor.motion.roi import Picture, Region, crop
from dreamactor.motion.ssd import Detection, anchors, decode
from dreamactor.motion.trimming import keep_outputs

THREADS = 2
GREETING = b"XNNPACK delegate"  # what LiteRT's C++ writes to the error stream when it opens its first model


@contextmanager
def no_greeting() -> Iterator[None]:
    """Keeps LiteRT's greeting off the error stream; whatever else is written meanwhile appears after."""
    try:
        stream = os.dup(2)
    except OSError:  # no error stream
        yield
        return
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stream, 2)
            os.close(stream)
            sink.seek(0)
            rest = b"".join(line for line in sink if GREETING not in line)
            if rest:
                os.write(2, rest)


class Model:
    """One .tflite network: a square RGB picture in, float32 arrays out. Not to be shared between threads."""

    def __init__(self, path: Path, signed: bool = False, outputs: Collection[int] | None = None) -> None:
        """`signed` models take pixels in -1..1, the others in 0..1; `outputs` are those to compute (default: all)."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingDependency("ai-edge-litert is not installed; `pip install ai-edge-litert`.") from error
        trimmed = None if outputs is None else keep_outputs(path.read_bytes(), outputs)
        source = {"model_path": str(path)} if trimmed is None else {"model_content": trimmed}
        self._interpreter: Any = Interpreter(**source, num_threads=THREADS)
        self._interpreter.allocate_tensors()
        (given,) = self._interpreter.get_input_details()
        self._input = given["index"]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        self._scale, self._offset = (2 / 255, -1.0) if signed else (1 / 255, 0.0)
        self.side = int(given["shape"][1])

    def run(self, picture: Picture) -> list[NDArray[np.float32]]:
        """Outputs in the model's order, without the batch dimension, for uint8 [side, side, 3]."""
        values = picture.astype(np.float32) * np.float32(self._scale) + np.float32(self._offset)
        self._interpreter.set_tensor(self._input, values[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index)[0] for index in self._outputs]


class Detector:
    """A single-shot detector over a square part of a picture."""

    def __init__(
        self, path: Path, strides: tuple[int, ...], per_cell: tuple[int, ...], signed: bool, threshold: float
    ) -> None:
        self._model = Model(path, signed)
        self._threshold = threshold
        self._anchors: Float = anchors(self._model.side, strides, per_cell)

    def find(self, picture: Picture, region: Region | None = None) -> list[Detection]:
        """Finds in `region` (upright), or in the whole picture; best first."""
        height, width = picture.shape[:2]
        region = region or Region((width - 1) / 2, (height - 1) / 2, max(height, width))
        boxes, scores = self._model.run(crop(picture, region, self._model.side))
        return decode(boxes, scores[:, 0], self._anchors, self._model.side, region, self._threshold)


def body_detector(models: Path) -> Detector:
    """Key points: middle of the hips, a point on the circle round the body; middle of the shoulders, another such."""
    return Detector(models / "pose_detection.tflite", (8, 16, 32), (2, 2, 6), signed=True, threshold=0.5)


def palm_detector(models: Path) -> Detector:
    """Key points: wrist, then the bases of the index, middle, ring and little finger, and two of the thumb."""
    return Detector(models / "palm_detection_full.tflite", (8, 16), (2, 6), signed=False, threshold=0.5)


def near_face_detector(models: Path) -> Detector:
    """Faces that fill a good part of the region. Key points: right eye, left eye, nose, mouth, right ear, left ear."""
    return Detector(models / "face_detection_short_range.tflite", (8, 16), (2, 6), signed=True, threshold=0.5)


def far_face_detector(models: Path) -> Detector:
    """Faces of any size in a whole picture; the same key points."""
    return Detector(models / "face_detection_full_range_sparse.tflite", (4,), (1,), signed=True, threshold=0.6)
