"""Whether a started server really works: a request through every network and every stage, on blank pictures.

Ready says only that the models are loaded, and stays true when one of their processes has died.
"""

from __future__ import annotations

import time

import numpy as np

from dreamactor.engines import Manifest, NetworkRecord
from dreamactor.engines.session import Array
from dreamactor.errors import DreamActorError, InputError
from dreamactor.motion.prepare import MotionInputs
from dreamactor.pipeline import Event, Options
from dreamactor.pipeline.prepare import encode
from dreamactor.presets import FACE_SIZE, Preset
from dreamactor.serving.client import Connection, Late
from dreamactor.serving.session import RemoteNetwork
from dreamactor.serving.wire import ENSEMBLE, Prepared, pack_bytes, unpack_bytes

FRAMES = 5


class Deadline:
    """The end of `seconds` from now, which several calls share."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, above 0."""
        return max(0.1, self._end - time.monotonic())


class ProbedNetwork(RemoteNetwork):
    """A served network, called over gRPC."""

    def __init__(self, record: NetworkRecord, connection: Connection, deadline: Deadline) -> None:
        super().__init__(record)
        self._connection, self._deadline = connection, deadline

    def call(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return self._connection.infer(self.name, inputs, self._deadline.left())


def probe(server: str, manifest: Manifest, seconds: float) -> None:
    """Raises DreamActorError naming what does not answer, or not within `seconds`."""
    with Connection(server) as connection:
        connection.check_version()
        deadline = Deadline(seconds)
        try:
            _expect_video(connection, manifest, deadline)
            _expect_refusal(connection, deadline)
        except Late as error:
            raise DreamActorError(
                f"It did not answer within {seconds:.0f} s. A busy machine needs longer: start it again when this one "
                "has less to do."
            ) from error


def _expect_video(connection: Connection, manifest: Manifest, deadline: Deadline) -> None:
    """Through every network and the last two stages."""
    sessions = {name: ProbedNetwork(record, connection, deadline) for name, record in manifest.networks.items()}
    clip = encode(sessions, manifest.preset, blank(manifest.preset))
    prepared = Prepared(Event("prepare"), "probe", Options(steps=1), b"", clip).to_arrays()
    answer = None
    for part in connection.stream("denoise", prepared, timeout=deadline.left()):
        answer = connection.infer("finish", part, deadline.left())
    if answer is None or not unpack_bytes(answer["VIDEO"]):
        raise DreamActorError("The last stage answered without a video.")


def blank(preset: Preset) -> MotionInputs:
    """A black photo and a black clip of FRAMES frames, at the preset's size."""
    size = (preset.height, preset.width)
    return MotionInputs(
        references=np.zeros((1, *size, 3), np.uint8),
        reference_controls=np.zeros((1, *size, 6), np.uint8),
        controls=np.zeros((FRAMES, *size, 6), np.uint8),
        faces=np.zeros((FRAMES, FACE_SIZE, FACE_SIZE, 3), np.uint8),
        fps=float(preset.fps), crop=(0, 0, *size), notes=(), yaw=np.zeros(FRAMES, np.float32),
    )  # fmt: skip


def _expect_refusal(connection: Connection, deadline: Deadline) -> None:
    """The first stage would find no person in blank pictures; that it refuses no picture at all shows that it works."""
    nothing = {"REFERENCE_IMAGE": pack_bytes(b""), "DRIVING_VIDEO": pack_bytes(b"")}
    try:
        for _ in connection.stream(ENSEMBLE, nothing, timeout=deadline.left()):
            pass
    except InputError:
        return
    raise DreamActorError("The first stage accepted a picture of no bytes.")
