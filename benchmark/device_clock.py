"""How long a TensorRT engine runs on the GPU itself, by events on its stream.

A session's run as the pipeline sees it also copies arrays to the GPU and results back; between the two events is the
engine alone. Names and signatures: CUDA Driver API 12 and 13. Not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

from dreamactor.benchmark.timing import Case, Timing
from dreamactor.engines.tensorrt import TensorRTSession


class DeviceClock:
    """Takes the place of an open session's execution context until `close`: an event before and after all it queues."""

    def __init__(self, session: TensorRTSession) -> None:
        self._session, self._cuda, self._context = session, session._cuda, session._context
        self._taken: list[float] = []
        self._cuda.activate()
        self._events = ctypes.c_void_p(), ctypes.c_void_p()
        for event in self._events:
            self._cuda._call("cuEventCreate", ctypes.byref(event), 0)  # CU_EVENT_DEFAULT: it keeps the time
        session._context = self

    def execute_async_v3(self, stream: int) -> bool:
        before, after = self._events
        self._cuda._call("cuEventRecord", before, ctypes.c_void_p(stream))
        queued = bool(self._context.execute_async_v3(stream))
        self._cuda._call("cuEventRecord", after, ctypes.c_void_p(stream))
        return queued

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def around(self, case: Case) -> Case:
        """The case, a run of the session, and a note of what it took between the events."""

        def run() -> None:
            case()  # waits for the GPU
            milliseconds = ctypes.c_float()
            self._cuda._call("cuEventElapsedTime", ctypes.byref(milliseconds), *self._events)
            self._taken.append(milliseconds.value / 1e3)

        return run

    def timing(self, whole: Timing) -> Timing:
        """The runs of `whole`, which were the last ones, by the seconds between the events."""
        taken = zip(whole.samples, self._taken[-len(whole.samples) :], strict=True)
        return Timing(tuple(replace(sample, seconds=seconds) for sample, seconds in taken))

    def close(self) -> None:
        """Gives the session its own context back."""
        self._session._context = self._context
        self._cuda.activate()
        for event in self._events:
            self._cuda._call("cuEventDestroy_v2", event)
