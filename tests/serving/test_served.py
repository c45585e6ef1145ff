"""The real server, ensemble and clip: what it answers, and that nothing disturbs the request that follows."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import av
import numpy as np
import pytest
import tritonclient.grpc as grpc
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from dreamactor.benchmark.server_statistics import snapshot
from dreamactor.errors import Cancelled, DreamActorError, InputError
from dreamactor.pipeline import Animator, Event, Options
from dreamactor.pipeline.events import PREPARE_SHARE
from dreamactor.pipeline.prepare import Framing, prepare
from dreamactor.serving.client import Connection, animate
from dreamactor.serving.jobs import WAITING, Jobs
from dreamactor.serving.launcher import Server
from dreamactor.serving.wire import Passed, Prepared
from tests.conftest import ASSETS, ROOT
from tests.serving import raw
from tests.serving.conftest import OPTIONS

pytestmark = pytest.mark.server
MEDIA = ASSETS / "media"
LONG = Options(steps=60, seed=5, max_frames=10)
WAITS = Event("wait", fraction=PREPARE_SHARE, message="waiting for 1 other clip")


def wait_until(what: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def idle(server: Server) -> bool:
    """Whether no job is running."""
    return not any(server.process.jobs_folder.iterdir())


def runs(server: Server, network: str) -> int:
    """How often a network has run since the server started, as the server counts."""
    with grpc.InferenceServerClient(server.address) as client:
        return int(client.get_inference_statistics(network).model_stats[0].execution_count)


def steps_run(server: Server) -> int:
    return runs(server, "denoiser")


def test_a_proxy_is_not_asked_for_what_is_here(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    with Connection(server.address) as connection:
        connection.check_version()
    assert snapshot(f"127.0.0.1:{server.listen.http_port}")


def test_bare_client_without_options_gets_its_video(server: Server, portrait: bytes, clip: bytes) -> None:
    events: list[dict[str, object]] = []
    video = raw.stream(
        server.address,
        [raw.tensor("REFERENCE_IMAGE", [portrait]), raw.tensor("DRIVING_VIDEO", [clip])],
        lambda text: events.append(json.loads(text)),
    )
    with av.open(io.BytesIO(video)) as made, av.open(io.BytesIO(clip)) as driving:
        rate = made.streams.video[0].average_rate
        seconds = float(driving.streams.video[0].duration * driving.streams.video[0].time_base)
        frames = sum(1 for _ in made.decode(video=0))
        assert rate == 12
        assert abs(frames - seconds * 12) <= 1
        assert made.streams.audio
    assert {"stage", "segment", "segments", "step", "steps", "fraction"} <= set(events[0])
    fractions = [float(str(event["fraction"])) for event in events]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)


def test_the_example_of_the_documentation_runs(
    server: Server, portrait: bytes, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the stubs that tritonclient generated from the same file."""
    monkeypatch.setitem(sys.modules, "grpc_service_pb2", service_pb2)
    monkeypatch.setitem(sys.modules, "grpc_service_pb2_grpc", service_pb2_grpc)
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(portrait)
    Path("clip.mp4").write_bytes(clip)
    example = (ROOT / "docs" / "grpc.md").read_text().partition("```python\n")[2].partition("```")[0]
    shorter = example.replace('"steps": 4, "max_frames": 24', '"steps": 1, "max_frames": 5')
    exec(shorter.replace("127.0.0.1:8001", server.address), {})
    with av.open("out.mp4") as made:
        assert sum(1 for _ in made.decode(video=0)) == 5


@pytest.mark.parametrize("options", ['{"seed": 1, "steps": 1, "max_frames": 5}', '{"seed": -1}'])
def test_the_example_of_the_readme_ends_well_or_with_what_was_wrong(
    server: Server, portrait: bytes, clip: bytes, tmp_path: Path, options: str
) -> None:
    (tmp_path / "photo.png").write_bytes(portrait)
    (tmp_path / "clip.mp4").write_bytes(clip)
    blocks = [part.partition("```")[0] for part in (ROOT / "README.md").read_text().split("```python\n")]
    (example,) = [block for block in blocks if "InferenceServerClient" in block]
    example = example.replace("127.0.0.1:8001", server.address).replace('{"seed": 1}', options)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    if "-1" in options:
        assert done.returncode == 1
        assert "INVALID_ARGUMENT" in done.stderr
    else:
        assert done.returncode == 0
        with av.open(str(tmp_path / "out.mp4")) as made:
            assert sum(1 for _ in made.decode(video=0)) == 5


def test_served_equals_in_process_in_every_byte_step_and_note(
    server: Server, wide_engines: Path, portrait: bytes, clip: bytes
) -> None:
    here: list[Event] = []
    there: list[Event] = []
    options = Options(steps=2, seed=9, max_frames=10, pseudo_references=1, solver="euler")
    with Animator.open(wide_engines) as animator:
        video = animator.animate([portrait, portrait], clip, options, here.append)
    assert animate(server.address, [portrait, portrait], clip, options, there.append) == video
    assert [event for event in there if event.step] == [event for event in here if event.step]
    assert [event.message for event in there if event.message] == [event.message for event in here if event.message]
    assert there[-1] == here[-1] == Event("done", fraction=1.0)


def test_cancelled_request_stops_within_two_steps(
    server: Server, portrait: bytes, clip: bytes, expected: bytes
) -> None:
    before = steps_run(server)

    def stop(event: Event) -> None:
        if (event.stage, event.step) == ("denoise", 3):
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        animate(server.address, [portrait], clip, LONG, stop)
    wait_until(lambda: idle(server))
    assert 3 <= steps_run(server) - before <= 5
    assert animate(server.address, [portrait], clip, OPTIONS) == expected


def test_denoising_called_by_itself_stops_when_its_caller_goes(
    server: Server, wide_engines: Path, portrait: bytes, clip: bytes
) -> None:
    with Animator.open(wide_engines) as animator:
        preset, sessions = animator.engines.preset, animator.engines.sessions
        ready = prepare(sessions, preset, [portrait], clip, LONG)
    before, arrays = steps_run(server), Prepared(Event("prepare"), "", LONG, clip, ready).to_arrays()
    with Connection(server.address) as connection:
        answers = connection.stream("denoise", arrays)
        for _ in range(3):
            next(answers)
        answers.close()
    wait_until(lambda: idle(server))
    assert 3 <= steps_run(server) - before <= 8


def test_nothing_is_prepared_for_a_caller_who_left_meanwhile(server: Server, portrait: bytes, clip: bytes) -> None:
    def stop(event: Event) -> None:
        raise Cancelled("enough")

    before = runs(server, "pose_encoder")
    with pytest.raises(Cancelled):
        animate(server.address, [portrait] * 4, clip, Options(steps=1), stop)  # long enough to hear of it
    wait_until(lambda: idle(server))
    assert runs(server, "pose_encoder") == before


def test_client_asked_to_cancel_stops_the_server(server: Server, portrait: bytes, clip: bytes) -> None:
    events: list[Event] = []
    with pytest.raises(Cancelled):
        animate(server.address, [portrait], clip, LONG, events.append, lambda: bool(events))
    wait_until(lambda: idle(server))
    assert events[-1].stage != "done"


def test_killed_client_stops_within_two_steps(
    server: Server, portrait: bytes, clip: bytes, expected: bytes, tmp_path: Path
) -> None:
    (tmp_path / "photo").write_bytes(portrait)
    (tmp_path / "clip").write_bytes(clip)
    before = steps_run(server)
    command = [sys.executable, raw.__file__, server.address, "photo", "clip", LONG.to_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as client:
        assert client.stdout is not None
        for line in client.stdout:
            event = Event.from_json(line)
            if (event.stage, event.step) == ("denoise", 3):
                client.kill()
                break
        assert client.wait(10) == -signal.SIGKILL
    seen = steps_run(server)  # some went by while the connection broke: they take 2 ms here
    wait_until(lambda: idle(server))
    assert 3 <= steps_run(server) - before < 30
    assert steps_run(server) - seen <= 2
    assert animate(server.address, [portrait], clip, OPTIONS) == expected


def test_two_clients_at_once_do_not_meet(server: Server, portrait: bytes, clip: bytes, expected: bytes) -> None:
    other = Options(steps=2, seed=6, max_frames=10)
    with ThreadPoolExecutor(4) as clients:
        videos = [clients.submit(animate, server.address, [portrait], clip, o) for o in (OPTIONS, other) * 2]
        first, second, third, fourth = (video.result() for video in videos)
    assert first == third == expected
    assert second == fourth != expected


def test_who_waits_hears_of_it_and_may_leave_the_line(
    server: Server, portrait: bytes, clip: bytes, expected: bytes
) -> None:
    heard: list[Event] = []

    def join(event: Event) -> None:
        if (event.stage, event.step) == ("denoise", 1) and not heard:
            with pytest.raises(Cancelled):
                animate(server.address, [portrait], clip, LONG, heard.append, lambda: heard[-1:] == [WAITS])
            wait_until(lambda: jobs.count() == 1)
            raise Cancelled("enough")

    jobs = Jobs(server.process.jobs_folder)
    with pytest.raises(Cancelled):
        animate(server.address, [portrait], clip, LONG, join)
    assert heard[-1] == WAITS
    wait_until(lambda: idle(server))
    assert animate(server.address, [portrait], clip, OPTIONS) == expected


def test_line_that_is_too_long_is_not_joined(server: Server, portrait: bytes, clip: bytes, expected: bytes) -> None:
    jobs = Jobs(server.process.jobs_folder)
    with ExitStack() as line:
        for _ in range(WAITING):
            line.enter_context(jobs.open())
        assert animate(server.address, [portrait], clip, OPTIONS) == expected
        line.enter_context(jobs.open())
        with pytest.raises(DreamActorError, match=f"busy: {WAITING} clips are waiting"):
            animate(server.address, [portrait], clip, OPTIONS)


def test_stranger_at_the_last_stage_does_not_disturb(server: Server, portrait: bytes, clip: bytes) -> None:
    options = Options(steps=40, seed=5, max_frames=10)  # long enough not to be over before the stranger is heard
    framing = Framing(12.0, 4, (0, 0, 64, 64))
    refused: list[bool] = []

    def disturb(event: Event) -> None:
        if (event.segment, event.step) == (2, 1):
            with pytest.raises(InputError, match="Another job's video"):
                stranger.infer("finish", Passed(event, "stranger", framing=framing).to_arrays())
            stranger.infer("finish", Passed(Event("done"), "stranger").to_arrays())
            refused.append(True)

    alone = animate(server.address, [portrait], clip, options)
    with Connection(server.address) as stranger:
        assert animate(server.address, [portrait], clip, options, disturb) == alone
    assert refused


def test_what_a_stranger_must_not_do_is_refused(server: Server) -> None:
    with grpc.InferenceServerClient(server.address) as client:
        for forbidden in (
            lambda: client.register_system_shared_memory("region", "/region", 64),
            lambda: client.unload_model("denoiser"),
            lambda: client.update_log_settings({"log_verbose_level": 1}),
            lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
        ):
            with pytest.raises(InferenceServerException, match="restricted"):
                forbidden()
    direct = build_opener(ProxyHandler({}))
    for path in ("repository/index", "systemsharedmemory/region/region/register", "logging", "trace/setting"):
        with pytest.raises(HTTPError) as refused:
            direct.open(f"http://127.0.0.1:{server.listen.http_port}/v2/{path}", b"{}")
        assert b"restricted" in refused.value.read(), path


def test_every_door_is_on_the_host_alone(server: Server) -> None:
    for port in (server.listen.grpc_port, server.listen.http_port, server.listen.metrics_port):
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port)).close()


def malformed(name: str) -> grpc.InferInput:
    """A BYTES tensor whose length says more than there is."""
    made = grpc.InferInput(name, [1], "BYTES")
    made._raw_content = (1000).to_bytes(4, "little") + b"short"
    return made


def huge_photo() -> bytes:
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    return content.getvalue()


def grey_clip(frames: int) -> bytes:
    """One frame a second."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=1)
        stream.width = stream.height = 64
        for _ in range(frames):
            output.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        output.mux(stream.encode(None))
    return content.getvalue()


REFUSED = {
    "photo of 20,000 x 20,000": ({"photo": huge_photo}, "pixels"),
    "photo without a person": ({"photo": (MEDIA / "coffee.png").read_bytes}, "No person found in the ref"),
    "photo cut off": ({"photo": lambda: (MEDIA / "astronaut.png").read_bytes()[:5000]}, "reference image"),
    "clip over the longest": ({"clip": lambda: grey_clip(90)}, "60"),
    "clip without a person": ({"clip": lambda: grey_clip(3)}, "No person found in the driving clip"),
    "clip of one frame": ({"clip": lambda: grey_clip(1)}, "frame"),
    "clip cut off": ({"clip": lambda: (MEDIA / "single_face.mp4").read_bytes()[:5000]}, "driving clip"),
    "empty photo": ({"photo": b""}, "reference"),
    "photo that is none": ({"photo": b"\x00garbage" * 99}, "reference"),
    "no photo": ({"REFERENCE_IMAGE": grpc.InferInput("REFERENCE_IMAGE", [0], "BYTES")}, "REFERENCE_IMAGE"),
    "photo as numbers": ({"REFERENCE_IMAGE": raw.tensor("REFERENCE_IMAGE", [1], "INT32")}, "REFERENCE_IMAGE"),
    "photo cut in its tensor": ({"REFERENCE_IMAGE": malformed("REFERENCE_IMAGE")}, "REFERENCE_IMAGE"),
    "empty clip": ({"clip": b""}, "driving clip"),
    "clip that is none": ({"clip": b"\x00garbage" * 99}, "driving clip"),
    "two clips": ({"DRIVING_VIDEO": raw.tensor("DRIVING_VIDEO", [b"a", b"b"])}, "DRIVING_VIDEO"),
    "no clip": ({"DRIVING_VIDEO": None}, "DRIVING_VIDEO"),
    "options that are no JSON": ({"options": b"{"}, "options"),
    "options that are no text": ({"options": b"\xff\xfe\x00"}, "options"),
    "options that are no object": ({"options": b"[1]"}, "options"),
    "option that does not exist": ({"options": b'{"stepz": 3}'}, "stepz"),
    "option that is no text": ({"options": b'{"\\ud800": 3}'}, "ud800"),
    "option out of range": ({"options": b'{"steps": 100000}'}, "steps"),
}
# refused before any of our code runs, in Triton's own words
BY_TRITON = ("photo as numbers", "photo cut in its tensor", "two clips")


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_by_name(server: Server, portrait: bytes, clip: bytes, case: str) -> None:
    given, named = REFUSED[case]
    changes = {name: value() if callable(value) else value for name, value in given.items()}
    inputs = {
        "REFERENCE_IMAGE": raw.tensor("REFERENCE_IMAGE", [changes.get("photo", portrait)]),
        "DRIVING_VIDEO": raw.tensor("DRIVING_VIDEO", [changes.get("clip", clip)]),
        "OPTIONS": raw.tensor("OPTIONS", [changes.get("options", b"")]),
    }
    inputs |= {name: value for name, value in changes.items() if name.isupper()}
    if case == "no photo":
        inputs["REFERENCE_IMAGE"].set_data_from_numpy(np.array([], dtype=object))
    message = raw.refused(server.address, [value for value in inputs.values() if value is not None])
    assert named in message
    assert "INVALID_ARGUMENT" in message or case in BY_TRITON


def test_request_after_all_that_is_as_on_a_fresh_server(
    server: Server, portrait: bytes, clip: bytes, expected: bytes
) -> None:
    with pytest.raises(InputError, match="9 reference images"):
        animate(server.address, [portrait] * 9, clip, OPTIONS)
    assert not server.broken()
    assert idle(server)
    assert animate(server.address, [portrait], clip, OPTIONS) == expected
