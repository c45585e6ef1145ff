"""Second step of the ensemble: a response at every denoising step, with a segment's latent when it is done.

It hands the events of `prepare` on untouched and at once. Clips are made one at a time, each in a thread of its own, so
that one who waits can say so, and hear: before every step, and every second in the line, it looks whether its job is
still wanted. `finish` learns first that the caller has gone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dreamactor.pipeline import Event
from dreamactor.pipeline.denoise import denoise
from dreamactor.pipeline.events import PREPARE_SHARE
from dreamactor.pipeline.prepare import PreparedClip
from dreamactor.serving.backend import FINAL, Settings, arrays_of, problem_of, response, sessions, shared_jobs
from dreamactor.serving.line import Line
from dreamactor.serving.wire import Passed, Prepared


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        self.settings = Settings.from_args(args)
        manifest = self.settings.manifest()
        self.preset, self.denoiser, self.jobs = manifest.preset, sessions(manifest)["denoiser"], shared_jobs()
        self.line = Line()

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                prepared = Prepared.from_arrays(arrays_of(request))
            except Exception as error:
                prepared = Prepared(Event("denoise"), "", problem=problem_of(error, self.settings.model))
            if prepared.clip is None or request.is_cancelled():  # nothing to make, or nobody to make it for
                passed = Passed(prepared.event, prepared.job, problem=prepared.problem)
                sender.send(response(passed.to_arrays()), flags=FINAL)
            else:
                threading.Thread(target=self.make, args=(prepared, prepared.clip, sender), daemon=True).start()

    def make(self, prepared: Prepared, clip: PreparedClip, sender: Any) -> None:
        """Sends everything in its turn, the last response too: `finish` takes one clip at a time."""
        with self.line.place() as ahead, self.jobs.open() as job:
            try:
                for passed in self.parts(job, prepared, clip, ahead):
                    sender.send(response(passed.to_arrays()))
                    if sender.is_cancelled():  # told where it is called by itself; in the ensemble, by `finish`
                        self.jobs.call_off(job)
                last = Passed(Event("done", fraction=1.0), job)
            except Exception as error:
                last = Passed(Event("denoise"), job, problem=problem_of(error, self.settings.model))
            sender.send(response(last.to_arrays()), flags=FINAL)

    def parts(self, job: str, prepared: Prepared, clip: PreparedClip, ahead: Iterator[int]) -> Iterator[Passed]:
        """What to send while it waits and after each step; the framing, and the clip with the sound, go with the first
        latent."""
        told = 0
        for clips in ahead:
            self.jobs.require(job)
            message = f"waiting for {clips} other clip{'s' if clips > 1 else ''}" if clips != told else ""
            yield Passed(Event("wait", fraction=PREPARE_SHARE, message=message), job)
            told = clips
        self.jobs.require(job)
        first = True
        for step in denoise(self.denoiser, self.preset, clip, prepared.options):
            if step.latent is not None and first:
                first = False
                yield Passed(step.event, job, step.latent, clip.framing, prepared.driving)
            else:
                yield Passed(step.event, job, step.latent)
            self.jobs.require(job)
