"""The first stage on a real photo and clip: what a caller chose reaches it."""

from __future__ import annotations

from pathlib import Path

from dreamactor.engines import open_engines
from dreamactor.pipeline import Event, Options
from dreamactor.pipeline.prepare import prepare
from dreamactor.presets import preset


def test_what_the_caller_chose_is_what_is_prepared(tiny_engines: Path, portrait: bytes, clip: bytes) -> None:
    events: list[Event] = []
    options = Options(max_frames=5, scale="face", pseudo_references=2)
    with open_engines(tiny_engines) as engines:
        found = prepare(engines.sessions, preset("tiny"), [portrait], clip, options, on_progress=events.append)
    assert found.framing.frames == 5
    assert len(found.view_pose) == len(found.view_motion) == 2
    assert "scale 'face' (as asked)" in [event.message for event in events]
