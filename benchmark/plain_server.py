"""The simplest server one would write instead of Triton: gRPC, one method, the same pipeline behind it.

`python -m dreamactor.benchmark.plain_server ENGINES` prints `ready PORT` and serves until it is ended.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from dreamactor.errors import DreamActorError, MissingDependency
from dreamactor.pipeline import Animator, Options

METHOD = "/dreamactor.Plain/Animate"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class PlainServer:
    """The server in a process of its own; a context manager."""

    def __init__(self, engines: Path) -> None:
        command = [sys.executable, "-m", "dreamactor.benchmark.plain_server", str(engines)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        if line[:1] != ["ready"]:
            self.stop()
            raise DreamActorError("The plain gRPC server did not start.")
        self.address = f"127.0.0.1:{line[1]}"
        self._channel = _grpc().insecure_channel(self.address, options=_UNLIMITED)
        self._call = self._channel.unary_unary(METHOD)

    def animate(self, reference: bytes, driving: bytes, options: Options) -> bytes:
        """One request; raises grpc.RpcError when the server fails."""
        video: bytes = self._call(_pack(reference, driving, options.to_json().encode()))
        return video

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> PlainServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self.stop()


def serve(engines: Path) -> None:
    """Serves on a free port of 127.0.0.1 until the process ends, one clip at a time."""
    grpc = _grpc()
    with Animator.open(engines) as animator:

        def animate(request: bytes, context: Any) -> bytes:
            reference, driving, options = _unpack(request)
            return animator.animate([reference], driving, Options.from_json(options))

        service, method = METHOD.strip("/").split("/")
        handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(animate)})
        server = grpc.server(ThreadPoolExecutor(1), handlers=(handler,), options=_UNLIMITED)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        print(f"ready {port}", flush=True)
        server.wait_for_termination()


def _pack(*parts: bytes) -> bytes:
    return struct.pack(f"<{len(parts)}Q", *map(len, parts)) + b"".join(parts)


def _unpack(message: bytes) -> tuple[bytes, bytes, bytes]:
    first, second, third = struct.unpack_from("<3Q", message)
    begin = struct.calcsize("<3Q")
    return (
        message[begin : begin + first],
        message[begin + first : begin + first + second],
        message[begin + first + second : begin + first + second + third],
    )


def _grpc() -> Any:
    try:
        import grpc
    except ImportError as error:
        raise MissingDependency("The gRPC peer needs grpcio: pip install 'dreamactor[serve]'.") from error
    return grpc


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
