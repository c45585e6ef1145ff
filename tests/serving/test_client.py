"""What the client says when there is no server, or another one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dreamactor.engines import read_manifest
from dreamactor.errors import DreamActorError, InputError
from dreamactor.serving import client
from dreamactor.serving.client import Connection, Late, animate
from dreamactor.serving.probe import probe
from dreamactor.serving.wire import ENSEMBLE, REQUEST, RESPONSE


class OtherServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Speaks the protocol and serves a model of our name with other tensors, or none; no such server exists here."""

    def __init__(self, tensors: tuple[str, ...] | None) -> None:
        self.tensors = tensors

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        if self.tensors is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        found = [tensor(name=name, datatype="BYTES", shape=[1]) for name in self.tensors or ()]
        return service_pb2.ModelMetadataResponse(name=request.name, inputs=found)


class StuckServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Has our model and answers no request until it is `over`; a silent one does not even say what it has."""

    def __init__(self, silent: bool = False) -> None:
        self.over, self.silent = threading.Event(), silent

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        if self.silent:
            self.over.wait()
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        inputs, outputs = (
            [tensor(name=port.name, datatype=port.dtype.upper()) for port in ports] for ports in (REQUEST, RESPONSE)
        )
        return service_pb2.ModelMetadataResponse(name=request.name, inputs=inputs, outputs=outputs)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.over.wait()
        return service_pb2.ModelInferResponse()

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        self.over.wait()
        return iter(())


class EmptyServer(StuckServer):
    """Ends every request without a word."""

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        for _ in requests:
            last = service_pb2.ModelInferResponse()
            last.parameters["triton_final_response"].bool_param = True
            yield service_pb2.ModelStreamInferResponse(infer_response=last)


@contextmanager
def stuck(silent: bool = False) -> Iterator[str]:
    servicer = StuckServer(silent)
    with listening(servicer) as address:
        try:
            yield address
        finally:
            servicer.over.set()


def serving(tensors: tuple[str, ...] | None) -> AbstractContextManager[str]:
    return listening(OtherServer(tensors))


@contextmanager
def listening(servicer: service_pb2_grpc.GRPCInferenceServiceServicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_no_server_says_how_to_start_one() -> None:
    with serving(None) as gone:
        pass
    with pytest.raises(DreamActorError, match=rf"{gone}.*dreamactor serve"):
        animate(gone, [b"photo"], b"clip")


@pytest.mark.parametrize(
    "address",
    ["", "localhost", "localhost:", ":8001", "localhost:port", "localhost:99999", "http://a:8001", "a:²", "a:٣"],
)
def test_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        animate(address, [b"photo"], b"clip")


def test_more_than_a_message_holds_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InputError, match=r"have 2147\.5 MB together; a server takes 2147\.4 MB"):
        animate("127.0.0.1:9", [bytes(1 << 20)], bytes((1 << 31) - (1 << 20)))


def test_server_of_another_version_is_named_with_its_tensors() -> None:
    with serving(("PHOTO", "CLIP")) as address, pytest.raises(DreamActorError, match=r"another version.*PHOTO BYTES"):
        animate(address, [b"photo"], b"clip")


def test_server_without_our_model_is_another_server() -> None:
    with serving(None) as address, pytest.raises(DreamActorError, match="not of this project"):
        animate(address, [b"photo"], b"clip")


def test_a_stream_that_is_stuck_is_left_in_time() -> None:
    with stuck() as address, Connection(address) as connection, pytest.raises(Late, match=f"{address} did not answer"):
        list(connection.stream(ENSEMBLE, {}, timeout=0.2))


@pytest.mark.timeout(30)
def test_one_answer_is_waited_for_no_longer_than_was_said() -> None:
    with stuck() as address, Connection(address) as connection, pytest.raises(Late):
        connection.infer("finish", {}, 0.2)


@pytest.mark.timeout(30)
def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_CONNECT_SECONDS", 0.2)
    with stuck(silent=True) as address, pytest.raises(Late, match=f"{address} did not answer in time"):
        animate(address, [b"photo"], b"clip")


def test_an_end_without_a_video_is_said() -> None:
    with listening(EmptyServer()) as address, pytest.raises(DreamActorError, match="ended without a video"):
        animate(address, [b"photo"], b"clip")


def test_a_server_that_is_stuck_is_said_to_need_longer(tiny_engines: Path) -> None:
    with stuck() as address, pytest.raises(DreamActorError, match=r"did not answer within 1 s\. A busy machine needs"):
        probe(address, read_manifest(tiny_engines), 1.0)
