"""The gRPC client: sends a photo and a clip, hears of every step, gets the video.

    video = animate("127.0.0.1:8001", [photo], clip, Options(seed=1), on_progress=print)

Anything that speaks Triton's protocol can do the same with the tensor names of `wire.REQUEST` and `wire.RESPONSE`.
"""

from __future__ import annotations

import math
import queue
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from dreamactor.engines.session import Array
from dreamactor.errors import Cancelled, DreamActorError, InputError, MissingDependency
from dreamactor.motion.limits import megabytes
from dreamactor.pipeline import Event, Options
from dreamactor.pipeline.events import OnProgress, ignore
from dreamactor.serving.wire import ENSEMBLE, REQUEST, RESPONSE, Request, unpack_bytes

_MESSAGE_BYTES = (1 << 31) - (1 << 16)  # gRPC's own limit of 2 GiB, less what goes round the media
_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.1
_LOCAL = re.compile(r"localhost:|127\.|\[::1\]")  # which no proxy can reach for us
_STATUS = re.compile(r"\b(INVALID_ARGUMENT|CANCELLED|RESOURCE_EXHAUSTED|INTERNAL): (.*)", re.DOTALL)


def animate(
    server: str,
    references: Sequence[bytes],
    driving: bytes,
    options: Options = Options(),
    on_progress: OnProgress = ignore,
    cancel: Callable[[], bool] = lambda: False,
) -> bytes:
    """The video that the server at `server` (HOST:PORT of its gRPC door) makes, as MP4.

    `cancel` is asked ten times a second, `on_progress` may raise; either way, and at Ctrl-C, the server stops working.
    Raises InputError for what the server refuses or no message holds, Cancelled when `cancel` says so, and
    DreamActorError for a server that is not there, is of another version, fails or is stopped.
    """
    video = b""
    size = len(driving) + sum(map(len, references))
    if size > _MESSAGE_BYTES:
        raise InputError(
            f"Too large: photos and clip have {megabytes(size)} together; a server takes {megabytes(_MESSAGE_BYTES)} "
            "at once."
        )
    request = Request(tuple(references), driving, options)
    with Connection(server) as connection:
        connection.check_version()
        for answer in connection.stream(ENSEMBLE, request.to_arrays(), cancel):
            on_progress(Event.from_json(unpack_bytes(answer["EVENT"])))
            video = unpack_bytes(answer["VIDEO"])
    if not video:
        raise DreamActorError(f"The server at {server} ended without a video; its log says why.")
    return video


class Late(DreamActorError):
    """The server did not answer in the time that it was given."""


class Connection:
    """A connection to one server; use it as a context manager."""

    def __init__(self, server: str) -> None:
        self.server = server
        try:
            import tritonclient.grpc as grpc
        except ImportError as error:
            raise MissingDependency("tritonclient is not installed: pip install 'dreamactor[serve]'") from error
        if not _is_address(server):
            raise InputError(f"The server must be given as HOST:PORT, not '{server}'.")
        self._grpc = grpc
        unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]  # the package's own default
        direct = [("grpc.enable_http_proxy", 0)] if _LOCAL.match(server) else []
        self._client: Any = grpc.InferenceServerClient(server, channel_args=unlimited + direct)

    def check_version(self) -> None:
        """Raises DreamActorError unless a server answers that has the ensemble, with the tensors this version knows."""
        from tritonclient.utils import InferenceServerException

        try:
            found = self._client.get_model_metadata(ENSEMBLE, client_timeout=_CONNECT_SECONDS)
        except InferenceServerException as error:
            raise self._error(error) from error
        served = [_names(found.inputs), _names(found.outputs)]
        known = [{(port.name, port.dtype.upper()) for port in ports} for ports in (REQUEST, RESPONSE)]
        if served != known:
            raise DreamActorError(
                f"The server at {self.server} is of another version: its '{ENSEMBLE}' has the tensors "
                f"{_listed(served)}; this client knows {_listed(known)}. Use the same version on both sides."
            )

    def infer(self, model: str, arrays: Mapping[str, Array], timeout: float | None = None) -> dict[str, Array]:
        """One answer of a model that is not decoupled; raises Late after `timeout` seconds."""
        from tritonclient.utils import InferenceServerException

        try:
            result = self._client.infer(model, self._inputs(arrays), client_timeout=timeout)
        except InferenceServerException as error:
            raise self._error(error) from error
        return _arrays(result)

    def stream(
        self,
        model: str,
        arrays: Mapping[str, Array],
        cancel: Callable[[], bool] = lambda: False,
        timeout: float = math.inf,
    ) -> Iterator[dict[str, Array]]:
        """Every answer of a decoupled model; raises Late where they take longer than `timeout` seconds in all. Leaving
        the loop early cancels the request."""
        # not with the header triton_grpc_error, which gives a stream's errors their status: it crashes Triton 2.51
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._client.start_stream(lambda result, error: answers.put((result, error)))
        over, deadline = False, time.monotonic() + timeout
        try:
            self._client.async_stream_infer(model, self._inputs(arrays), enable_empty_final_response=True)
            while not over:
                if cancel():
                    raise Cancelled("Cancelled by the caller.")
                if time.monotonic() > deadline:
                    raise self._late()
                try:
                    result, error = answers.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if error is not None:
                    over = True
                    raise self._error(error)
                response = result.get_response()
                over = response.parameters["triton_final_response"].bool_param
                if response.outputs:
                    yield _arrays(result)
        finally:
            self._client.stop_stream(cancel_requests=not over)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _inputs(self, arrays: Mapping[str, Array]) -> list[Any]:
        from tritonclient.utils import np_to_triton_dtype

        inputs = []
        for name, array in arrays.items():
            tensor = self._grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        return inputs

    def _late(self) -> Late:
        return Late(f"The server at {self.server} did not answer in time.")

    def _error(self, error: Any) -> DreamActorError:
        """A Triton error as one of ours. A stream's error has no status but the one its text begins with."""
        status, message = str(error.status() or "").removeprefix("StatusCode."), str(error.message() or error)
        if found := _STATUS.search(message):
            status, message = found.groups()
        if status == "INVALID_ARGUMENT":
            return InputError(message)
        if status == "CANCELLED":  # not by us, who would not have waited for an answer
            return DreamActorError(f"The server at {self.server} was stopped before the video was done.")
        if status == "RESOURCE_EXHAUSTED":
            return DreamActorError(f"The server at {self.server} is busy: {message}")
        if status == "UNAVAILABLE":
            return DreamActorError(
                f"No server answers at {self.server}, or it went away ({message}). Start one with 'dreamactor serve'."
            )
        if status == "DEADLINE_EXCEEDED":
            return self._late()
        if status == "NOT_FOUND":
            return DreamActorError(f"The server at {self.server} is not of this project or version: {message}")
        return DreamActorError(f"The server at {self.server} failed: {message}")


def _is_address(server: str) -> bool:
    host, separator, port = server.rpartition(":")
    return bool(host and "/" not in host and separator and port.isascii() and port.isdigit() and 0 < int(port) < 65536)


def _arrays(result: Any) -> dict[str, Array]:
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def _names(tensors: Any) -> set[tuple[str, str]]:
    return {(tensor.name, tensor.datatype) for tensor in tensors}


def _listed(sides: Sequence[set[tuple[str, str]]]) -> str:
    return ", ".join(" ".join(pair) for side in sides for pair in sorted(side))
