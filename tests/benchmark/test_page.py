"""The page and its charts from what the harness's own parts write down: traces, loads, peers, ends not known."""

from __future__ import annotations

import json
import math
from typing import Any
from xml.etree import ElementTree

from dreamactor.benchmark import schema
from dreamactor.benchmark.html import write_html
from dreamactor.benchmark.load import LoadResult
from dreamactor.benchmark.plots import report_charts
from dreamactor.benchmark.schema import finite
from dreamactor.benchmark.server_statistics import shares
from dreamactor.benchmark.statistics import Interval
from dreamactor.benchmark.timing import interleave
from dreamactor.benchmark.torch_engines import Agreement
from dreamactor.benchmark.trace import Recorder, Trace
from dreamactor.serving.wire import ENSEMBLE

SVG = "{http://www.w3.org/2000/svg}"


def reported(**found: Any) -> dict[str, Any]:
    """A report with these parts, as it is read from its file."""
    machine = {"environment": {"processor": "x", "cores": 2}, "settings": {"preset": "tiny"}}
    report: dict[str, Any] = json.loads(json.dumps(finite({**schema.empty(), **machine, **found}), allow_nan=False))
    return report


def marks(report: dict[str, Any], chart: str, shape: str) -> list[tuple[ElementTree.Element, str]]:
    """The shapes of a chart, each with what hovering shows."""
    (svg,) = [found.drawing.svg() for found in report_charts(report) if found.name == chart]
    found = ElementTree.fromstring(svg).iter(SVG + shape)
    return [(mark, mark.findtext(SVG + "title") or "") for mark in found]


def trace() -> Trace:
    """Two segments of two steps each."""
    recorder = Recorder()
    with recorder.span("motion", "stage"):
        pass
    with recorder.span("encode", "stage"), recorder.span("vae_encoder", "engine") as moved:
        moved.append(3_000_000)
    for recorder.segment in (1, 2):
        for _ in range(2):
            with (
                recorder.span("step", "step"),
                recorder.span("denoise", "stage"),
                recorder.span("denoiser", "engine") as moved,
            ):
                moved.append(1_000_000)
        with recorder.span("decode", "stage"), recorder.span("vae_decoder", "engine"):
            pass
    with recorder.span("write", "stage"):
        pass
    return recorder.finish()


def test_a_waterfall_has_a_bar_for_every_span_of_a_trace() -> None:
    taken = trace()
    bars = [
        (bar, title) for bar, title in marks(reported(trace=taken.to_dict()), "waterfall", "rect") if " ms" in title
    ]

    drawn = [span for span in taken.spans if span.kind in ("stage", "engine")]
    assert len(drawn) == 3 + 4 + 2 + 7
    names = sorted(title.partition(":")[0].partition(",")[0] for _, title in bars)
    assert names == sorted(span.name for span in drawn)
    assert sum("denoiser, segment 2: " in title and title.endswith("1.00 MB") for _, title in bars) == 2
    places = {title.partition(":")[0]: float(bar.attrib["x"]) for bar, title in bars}
    assert places["decode, segment 1"] <= places["decode, segment 2"]
    assert not [title for _, title in bars if title.startswith(("motion", "encode")) and "segment" in title]
    rows = {title.partition(":")[0].partition(",")[0]: bar.attrib["y"] for bar, title in bars}
    assert len(set(rows.values())) == len(rows) == 8


def test_a_load_curve_has_a_point_for_every_load_that_was_answered() -> None:
    loads = [
        LoadResult("closed", 1, (0.5, 0.6, 0.5), 1.6),
        LoadResult("closed", 4, (1.1, 1.9, 2.0, 2.1), 2.2),
        LoadResult("open", 0.9, (0.5, 0.9), 2.3),
        LoadResult("open", 2.4, (), 3.0, ("RpcError: gone",) * 4),
    ]
    points = [title for _, title in marks(reported(service={"loads": [x.to_dict() for x in loads]}), "load", "circle")]

    for rank in ("p50", "p99"):
        assert sum(title.startswith(f"closed loop, {rank}: ") for title in points) == 2
        assert sum(title.startswith(f"open loop, {rank}: ") for title in points) == 1
    assert "closed loop, p50: 1.875, 0.5" in points
    assert len(points) == 6


def test_the_servers_statistics_and_failures_are_on_the_page() -> None:
    spent = {
        "success": (2, 40_000_000), "queue": (2, 2_000_000), "compute_input": (2, 0), "compute_infer": (2, 30_000_000),
        "compute_output": (2, 0),
    }  # fmt: skip
    statistics = [share.to_dict() for share in shares({}, {ENSEMBLE: spent, "denoiser": spent})]
    page = write_html(reported(service={"statistics": statistics, "failed_requests": ["open loop: 1 of 8 <failed>"]}))

    def row(*cells: str) -> str:
        return "".join(f"<td class=n>{cell}</td>" for cell in cells)

    assert f"<td>{ENSEMBLE}</td>{row('2', '1.00', '-', '-', '-', '-', '20.00')}" in page
    assert f"<td>denoiser</td>{row('2', '1.00', '0.00', '15.00', '0.00', '4.00', '20.00')}" in page
    assert "<td>open loop: 1 of 8 &lt;failed&gt;</td>" in page


def test_what_one_would_use_instead_is_on_the_page() -> None:
    ratio = Interval(1.33, 1.14, math.inf).to_dict()
    agreement = [vars(Agreement("denoiser", 3e-7, True)), vars(Agreement("vae_decoder", math.inf, False))]
    page = write_html(
        reported(
            service={"plain_grpc_overhead": Interval(0.024, -math.inf, 0.125).to_dict()},
            peers={
                "int8": {"video_psnr_db": 50.09},
                "eager": {
                    "device": "cpu", "dtype": "float32", "first_run_seconds": 0.77, "agreement": agreement,
                    "networks_speedup": ratio, "networks_speedup_int8": ratio,
                },
                "WanAnimateTransformer3DModel": {
                    "seconds": {"ours": {"value": 0.39}, "theirs": {"value": 0.475}}, "theirs_over_ours": ratio,
                    "device": "cuda", "dtype": "bfloat16", "note": "not the same network",
                },
            },
        )
    )  # fmt: skip
    for what, found in (
        ("int8: PSNR of its video against the main set&#x27;s", "50.1 dB"),
        ("eager: runs on", "cpu in float32"),
        ("eager: its networks&#x27; time over that of the main set", "1.33 [1.14, ∞]"),
        ("eager: its networks&#x27; time over that of int8", "1.33 [1.14, ∞]"),
        ("WanAnimateTransformer3DModel: its time over our denoiser&#x27;s", "1.33 [1.14, ∞]"),
        ("WanAnimateTransformer3DModel: runs on", "cuda in bfloat16"),
        ("WanAnimateTransformer3DModel: note", "not the same network"),
        ("denoiser", "3.0e-07"),
        ("vae_decoder", "∞: too far"),
    ):
        assert f"<td>{what}</td><td class=n>{found}</td>" in page
    assert "<b>+2.4%</b>by a plain gRPC server, over in process<br>[−∞, +12.5%]" in page


def test_the_machine_while_it_ran_is_on_the_page() -> None:
    gpu = {"clocks.sm": "1980 MHz", "temperature.gpu": "61"}
    told = {"load": [1.26, 1.0, 0.9], "clock_mhz": 2445.4, "temperature_c": 58.0, "available_bytes": 1, "gpu": gpu}
    silent = dict.fromkeys(told)
    page = write_html(reported(conditions=[{"before": "stages", **told}, {"before": "end", **silent}]))

    def row(*cells: str) -> str:
        return "".join(f"<td class=n>{cell}</td>" for cell in cells)

    assert f"<td>stages</td>{row('1.3', '2445', '58', '1980 MHz', '61')}" in page
    assert f"<td>end</td>{row('-', '-', '-', '-', '-')}" in page


def test_an_interval_whose_ends_are_not_known_is_drawn_and_written() -> None:
    timing = interleave({"x": lambda: None}, 2)["x"].to_dict()
    timing["p50"] |= {"low": -math.inf, "high": math.inf}
    report = reported(
        timings={"pipeline/onnxruntime": timing},
        summary={**schema.empty()["summary"], "memory_exponent": Interval(1.0, -math.inf, math.inf).to_dict()},
    )
    assert report["timings"]["pipeline/onnxruntime"]["p50"]["high"] is None

    assert len(marks(report, "pipeline", "rect")) == 1
    assert "<b>1.00</b>power of the frames that memory grows with<br>[−∞, ∞]" in write_html(report)
