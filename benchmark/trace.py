"""A clip through the pipeline, timed at every boundary: stages, segments, steps, engine calls and their bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dreamactor.engines import Engines, Session
from dreamactor.engines.session import Array
from dreamactor.motion.draw import DrawnControls
from dreamactor.motion.landmarks import Landmarker
from dreamactor.motion.limits import Limits
from dreamactor.motion.prepare import prepare as prepare_motion
from dreamactor.pipeline import Options
from dreamactor.pipeline.denoise import denoise
from dreamactor.pipeline.finish import Finisher
from dreamactor.pipeline.prepare import PreparedClip, encode

STAGES = ("motion", "encode", "denoise", "decode", "write")


@dataclass(frozen=True)
class Span:
    """Something that took from `start` to `start + seconds` after the beginning. `kind` is "stage", "engine" or
    "step"; `bytes` went in and came out, `processor` is the seconds that this process computed meanwhile."""

    name: str
    kind: str
    start: float
    seconds: float
    segment: int = 0
    bytes: int = 0
    processor: float = 0.0


@dataclass
class Trace:
    """The spans of one clip."""

    spans: list[Span] = field(default_factory=list)
    seconds: float = 0.0
    handed_on: dict[str, int] = field(default_factory=dict)  # bytes a stage hands to the next

    def stage_seconds(self, clock: str = "seconds") -> dict[str, float]:
        """Seconds of each stage, its segments added up; `clock` is "seconds" (wall) or "processor"."""
        totals = dict.fromkeys(STAGES, 0.0)
        for span in self.spans:
            if span.kind == "stage":
                totals[span.name] += getattr(span, clock)
        return totals

    @property
    def steps(self) -> list[Span]:
        """Every denoising step: the engine's call and the loop around it."""
        return [span for span in self.spans if span.kind == "step"]

    def to_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "stages": self.stage_seconds(),
            "handed_on_bytes": self.handed_on,
            "spans": [asdict(span) for span in self.spans],
        }


class TracedSession:
    """A session that notes every call in a trace."""

    def __init__(self, inner: Session, recorder: Recorder) -> None:
        self._inner, self._recorder = inner, recorder
        self.name, self.inputs, self.outputs = inner.name, inner.inputs, inner.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._recorder.span(self.name, "engine") as moved:
            outputs = self._inner.run(inputs)
            moved.append(_bytes(inputs) + _bytes(outputs))
        return outputs

    def close(self) -> None:
        """The inner session is its owner's to close."""


class Recorder:
    """Collects spans against one clock."""

    def __init__(self) -> None:
        self.trace, self.segment = Trace(), 0
        self._zero = time.perf_counter()

    @contextmanager
    def span(self, name: str, kind: str) -> Iterator[list[int]]:
        """Times its body; byte counts appended to the list it yields are added up in the span."""
        moved: list[int] = []
        start, processor = time.perf_counter(), time.process_time()
        yield moved
        end, processor = time.perf_counter(), time.process_time() - processor
        self.trace.spans.append(Span(name, kind, start - self._zero, end - start, self.segment, sum(moved), processor))

    def finish(self) -> Trace:
        self.trace.seconds = time.perf_counter() - self._zero
        return self.trace


def traced(
    engines: Engines,
    references: Sequence[bytes],
    driving: bytes,
    options: Options,
    landmarker: Landmarker | None = None,
) -> tuple[bytes, Trace]:
    """What `Animator.animate` does, stage by stage; the video and the trace.

    The landmark models are opened within the trace unless they are given.
    """
    recorder, preset = Recorder(), engines.preset
    sessions = {name: TracedSession(session, recorder) for name, session in engines.sessions.items()}
    with recorder.span("motion", "stage"):
        inputs = prepare_motion(
            references, driving, preset, Limits(), options.max_frames, options.scale, landmarker=landmarker
        )
    with recorder.span("encode", "stage"):
        clip = encode(sessions, preset, inputs)
    recorder.trace.handed_on = {
        "motion": _bytes({"controls": inputs.controls, "faces": inputs.faces, "references": inputs.references}),
        "encode": _clip_bytes(clip),
    }
    finisher = Finisher(sessions["vae_decoder"], clip.framing, driving)
    try:
        latents = _denoise(recorder, sessions, engines, clip, options, finisher)
        with recorder.span("write", "stage"):
            video = finisher.close()
    except BaseException:
        finisher.abort()
        raise
    recorder.trace.handed_on["denoise"] = latents
    return video, recorder.finish()


def _denoise(
    recorder: Recorder, sessions: Mapping[str, Session], engines: Engines, clip: PreparedClip, options: Options,
    finisher: Finisher,
) -> int:  # fmt: skip
    """Denoises and decodes segment by segment; returns the bytes of latents handed on."""
    steps, handed, spans = denoise(sessions["denoiser"], engines.preset, clip, options), 0, recorder.trace.spans
    while True:
        first = len(spans)
        with recorder.span("denoise", "stage"):
            done = next(steps, None)
        if done is None:
            spans.pop()  # the end of the loop, not a step
            return handed
        recorder.segment = done.event.segment  # which is known only now
        spans[first:] = [replace(span, segment=recorder.segment) for span in spans[first:]]
        spans.append(replace(spans[-1], name="step", kind="step"))
        if done.latent is not None:
            handed += done.latent.nbytes
            with recorder.span("decode", "stage"):
                finisher.add(done.latent)


def _clip_bytes(clip: PreparedClip) -> int:
    return clip.reference_latent.nbytes + clip.reference_pose.nbytes + clip.pose_latent.nbytes + clip.motion.nbytes


def _bytes(arrays: Mapping[str, Array | DrawnControls]) -> int:
    return sum(array.nbytes for array in arrays.values())
