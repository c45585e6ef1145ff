"""The harness end to end on the tiny preset: one report, one page, and a slow-down put in on purpose that is seen."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image, ImageColor

from dreamactor.benchmark import roofline, schema, torch_engines
from dreamactor.benchmark.drawing import COLOURS
from dreamactor.benchmark.html import write_html
from dreamactor.benchmark.inputs import lengthened, media
from dreamactor.benchmark.plain_server import PlainServer
from dreamactor.benchmark.run import main, write
from dreamactor.benchmark.sections import MOMENTS
from dreamactor.benchmark.settings import Settings
from dreamactor.benchmark.statistics import paired_ratio
from dreamactor.benchmark.timing import interleave
from dreamactor.benchmark.trace import STAGES, traced
from dreamactor.engines import Engines, open_engines
from dreamactor.engines.session import Array
from dreamactor.errors import InputError
from dreamactor.fidelity import psnr
from dreamactor.interfaces import Size, random_inputs
from dreamactor.motion.prepare import prepare
from dreamactor.pipeline import Animator, Options
from dreamactor.presets import preset
from dreamactor.production.capture import animate

TINY = preset("tiny")
SHORT = Options(max_frames=9, steps=2)


@pytest.fixture(scope="module")
def engines(tiny_engines: Path) -> Engines:
    return open_engines(tiny_engines)


@pytest.fixture(scope="module")
def report(tiny_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "COPY_BYTES", 16 << 20)  # seconds less
        assert main(Settings(engines=tiny_engines, output=folder, sections=("engine",), quick=True), say=print) == 0
    return json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()


def test_the_report_has_what_its_schema_says(report: tuple[dict[str, Any], str]) -> None:
    found, _ = report
    assert set(found) == set(schema.KEYS)
    assert found["schema"] == schema.SCHEMA
    assert tuple(found["summary"]) == schema.SUMMARY
    assert found["summary"]["served_overhead"] is None
    assert found["failed"] == {}
    assert found["not_run"]["service"] == "not asked for"
    for network in found["limits"]["networks"]:
        timing = found["timings"][f"engine/{network}/fp32"]
        assert timing["runs"] == len(timing["block"]) == MOMENTS
        assert set(timing["block"]) == {*range(MOMENTS)}
        assert found["limits"]["networks"][network]["mfu"] > 0
        assert found["profiles"][network]["parts"]


def test_the_page_stands_alone_and_its_pictures_are_sound(report: tuple[dict[str, Any], str]) -> None:
    _, page = report
    assert not re.search(r"(src|href)=|@import|url\(", page)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) >= 3
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        width, height = (float(root.attrib[key]) for key in ("width", "height"))
        for box in root.iter("{http://www.w3.org/2000/svg}rect"):
            assert 0 <= float(box.attrib["x"]) <= width
            assert 0 <= float(box.attrib["y"]) <= height


def test_the_plots_are_there_as_pictures_too(
    report: tuple[dict[str, Any], str], tiny_engines: Path, tmp_path: Path
) -> None:
    found, page = report
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "of_an_earlier_run.png").write_bytes(b"")

    write(found, tmp_path)

    pictures = sorted((tmp_path / "plots").iterdir())
    assert {"engine.png", "parts.png", "roofline.png"} <= {path.name for path in pictures}
    assert len(pictures) == page.count("<svg")
    for path in pictures:
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(picture.width * picture.height)
        assert colours is not None
        assert len({colour for _, colour in colours} & {ImageColor.getrgb(name) for name in COLOURS}) >= 1


def test_an_empty_report_still_makes_a_page() -> None:
    found = schema.empty() | {"environment": {"processor": "<x>", "cores": 1}, "settings": {"preset": "tiny"}}
    page = write_html(found)
    assert "&lt;x&gt;" in page
    assert page.count("not run") == len(schema.SUMMARY)


def test_unknown_sections_are_refused() -> None:
    with pytest.raises(InputError, match="choose of engine"):
        Settings(sections=("engines",))


def test_a_trace_covers_the_clip(engines: Engines) -> None:
    given = media()
    plain = Animator(engines).animate([given.reference], given.driving, SHORT)

    video, trace = traced(engines, [given.reference], given.driving, SHORT)

    assert video == plain
    assert set(trace.stage_seconds()) == set(STAGES)
    assert len(trace.steps) == 2
    assert all(span.processor > 0 for span in trace.spans if span.name in ("denoise", "step"))
    assert 0.7 * trace.seconds < sum(trace.stage_seconds().values()) <= trace.seconds
    calls = [span for span in trace.spans if span.kind == "engine"]
    assert {span.name for span in calls} == set(engines.sessions)
    assert all(span.bytes > 0 for span in calls)
    (decoded,) = [span.bytes for span in calls if span.name == "vae_decoder"]
    assert decoded == trace.handed_on["denoise"] + 9 * 3 * TINY.height * TINY.width  # in and out
    assert trace.handed_on["denoise"] < trace.handed_on["encode"] < trace.handed_on["motion"]


def test_every_span_of_a_step_has_the_steps_segment(engines: Engines) -> None:
    given = media()
    two_segments = Options(max_frames=2 * TINY.segment_frames - 1, steps=2)

    _, trace = traced(engines, [given.reference], given.driving, two_segments)

    assert [step.segment for step in trace.steps] == [1, 1, 2, 2]
    for step in trace.steps:
        within = [
            span for span in trace.spans
            if span.kind != "step" and step.start <= span.start < step.start + step.seconds
        ]  # fmt: skip
        assert {(span.name, span.kind) for span in within} == {("denoise", "stage"), ("denoiser", "engine")}
        assert {span.segment for span in within} == {step.segment}
    assert [span.segment for span in trace.spans if span.name == "decode"] == [1, 2]


def test_pytorch_is_compared_only_where_it_agrees(engines: Engines) -> None:
    eager = torch_engines.eager(engines, torch_engines.Place())
    assert all(row.passed for row in torch_engines.agreement(engines, eager, Size.of(TINY)))

    inputs = random_inputs(TINY, "denoiser", Size.of(TINY), 0)
    ours = engines.session("denoiser").run(inputs)
    wrong = {key: value * 1.1 for key, value in ours.items()}
    assert not torch_engines.compare_outputs("denoiser", ours, wrong).passed
    nan = {key: value * float("nan") for key, value in ours.items()}
    assert not torch_engines.compare_outputs("denoiser", ours, nan).passed


def test_a_clips_networks_give_its_frames(engines: Engines) -> None:
    given = media()
    inputs = prepare([given.reference], given.driving, TINY, max_frames=9)

    frames = animate(engines.sessions, TINY, inputs, SHORT)

    assert frames.shape == (9, TINY.height, TINY.width, 3)
    assert psnr(frames, animate(engines.sessions, TINY, inputs, SHORT)) == 100
    brighter = np.minimum(frames, 245) + 10
    assert psnr(np.minimum(frames, 245), brighter) == pytest.approx(28.13, abs=0.01)


def test_a_clip_is_lengthened_by_playing_it_again() -> None:
    clip = media().driving
    once, longer = packets(clip), packets(lengthened(clip, 45))
    assert [size for _, size in longer] == 3 * [size for _, size in once]
    seconds = [at for at, _ in longer]
    assert 45 < max(seconds) < 75
    assert seconds == sorted(set(seconds))


def packets(clip: bytes) -> list[tuple[float, int]]:
    """When each packet of the video is to be decoded, in seconds, and how many bytes it has."""
    with av.open(io.BytesIO(clip), "r") as container:
        found = [packet for packet in container.demux(video=0) if packet.dts is not None]
        return [(float(packet.dts * packet.time_base), packet.size) for packet in found]


class Slower:
    """A session that takes half as long again as the one inside, in processor time."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        start = time.process_time()
        outputs: dict[str, Array] = self.inner.run(inputs)
        end = time.process_time() + 0.5 * (time.process_time() - start)
        while time.process_time() < end:
            pass
        return outputs


def test_a_slow_down_put_in_on_purpose_is_seen(engines: Engines) -> None:
    session = engines.session("vae_decoder")
    inputs = random_inputs(TINY, "vae_decoder", Size.of(TINY), 0)
    cases = {"now": lambda: session.run(inputs), "then": lambda: Slower(session).run(inputs)}

    timings = interleave(cases, rounds=40)

    processor = {name: [s.processor for s in timing.samples] for name, timing in timings.items()}
    assert paired_ratio(processor["then"], processor["now"]).low > 1.1


@pytest.mark.slow
def test_the_plain_server_gives_the_same_video(tiny_engines: Path, engines: Engines) -> None:
    given = media()
    expected = Animator(engines).animate([given.reference], given.driving, SHORT)
    with PlainServer(tiny_engines) as server:
        assert server.animate(given.reference, given.driving, SHORT) == expected


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(tiny_engines: Path) -> None:
    from dreamactor.benchmark.memory import probe

    few, many = probe(tiny_engines, 9, 1), probe(tiny_engines, 33, 1)
    assert 20 << 20 < few.idle < few.peak < 4 << 30
    assert many.grown > few.grown
