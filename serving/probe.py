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
from dreamactor.serving.client import Connection
from dreamactor.serving.session import RemoteNetwork
from dreamactor.serving.wire import ENSEMBLE, Prepared, pack_bytes, unpack_bytes

FRAMES = 5


class ProbedNetwork(RemoteNetwork):
    """A served network, called over gRPC until `deadline` (monotonic seconds)."""

    def __init__(self, record: NetworkRecord, connection: Connection, deadline: float) -> None:
        super().__init__(record)
        self._connection, self._deadline = connection, deadline

    def call(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return self._connection.infer(self.name, inputs, max(0.1, self._deadline - time.monotonic()))


def probe(server: str, manifest: Manifest, seconds: float) -> None:
    """Raises DreamActorError naming what does not answer, or not within `seconds`."""
    deadline = time.monotonic() + seconds
    with Connection(server) as connection:
        connection.check_version()
        sessions = {name: ProbedNetwork(record, connection, deadline) for name, record in manifest.networks.items()}
        clip = encode(sessions, manifest.preset, blank(manifest.preset))
        prepared = Prepared(Event("prepare"), "probe", Options(steps=1), b"", clip).to_arrays()
        late = lambda: time.monotonic() > deadline  # noqa: E731
        for part in connection.stream("denoise", prepared, late):
            answer = connection.infer("finish", part, max(0.1, deadline - time.monotonic()))
        if not unpack_bytes(answer["VIDEO"]):
            raise DreamActorError("The last stage answered without a video.")
        _expect_refusal(connection)


def blank(preset: Preset) -> MotionInputs:
    """A black photo and a black clip of FRAMES frames, at the preset's size."""
    size = (preset.height, preset.width)
    return MotionInputs(
        references=np.zeros((1, *size, 3), np.uint8),
        reference_controls=np.zeros((1, *size, 6), np.uint8),
        controls=np.zeros((FRAMES, *size, 6), np.uint8),
        faces=np.zeros((FRAMES, FACE_SIZE, FACE_SIZE, 3), np.uint8),
        fps=float(preset.fps), crop=(0, 0, *size), output_size=size, notes=(), scale="face",
        yaw=np.zeros(FRAMES, np.float32),
    )  # fmt: skip


def _expect_refusal(connection: Connection) -> None:
    """The first stage would find no person in blank pictures; that it refuses no picture at all shows that it works."""
    nothing = {"REFERENCE_IMAGE": pack_bytes(b""), "DRIVING_VIDEO": pack_bytes(b"")}
    try:
        for _ in connection.stream(ENSEMBLE, nothing):
            pass
    except InputError:
        return
    raise DreamActorError("The first stage accepted a picture of no bytes.")
