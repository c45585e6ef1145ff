"""Second step of the ensemble: a response at every denoising step, with a segment's latent when it is done.

It hands the events of `prepare` on untouched. Before every step it looks whether its job is still wanted: `finish`
learns first that the caller has gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dreamactor.errors import Cancelled
from dreamactor.pipeline import Event
from dreamactor.pipeline.denoise import denoise
from dreamactor.pipeline.prepare import PreparedClip
from dreamactor.serving.backend import FINAL, Settings, arrays_of, problem_of, response, sessions, shared_jobs
from dreamactor.serving.wire import Passed, Prepared


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        self.settings = Settings.from_args(args)
        manifest = self.settings.manifest()
        self.preset, self.denoiser, self.jobs = manifest.preset, sessions(manifest)["denoiser"], shared_jobs()

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            with self.jobs.open() as job:
                try:
                    last = self.work(request, sender, job)
                except Exception as error:
                    last = Passed(Event("denoise"), job, problem=problem_of(error, self.settings.model))
                sender.send(response(last.to_arrays()), flags=FINAL)

    def work(self, request: Any, sender: Any, job: str) -> Passed:
        """Sends what there is to send and returns the last response."""
        prepared = Prepared.from_arrays(arrays_of(request))
        if prepared.clip is None:
            return Passed(prepared.event, prepared.job, problem=prepared.problem)
        if request.is_cancelled():
            raise Cancelled("Cancelled by the caller.")
        for part in self.parts(job, prepared, prepared.clip):
            sender.send(response(part.to_arrays()))
        return Passed(Event("done", fraction=1.0), job)

    def parts(self, job: str, prepared: Prepared, clip: PreparedClip) -> Iterator[Passed]:
        """What to send after each step; the framing, and the clip with the sound, go with the first latent."""
        first = True
        for step in denoise(self.denoiser, self.preset, clip, prepared.options, lambda: not self.jobs.wanted(job)):
            if step.latent is not None and first:
                first = False
                yield Passed(step.event, job, step.latent, clip.framing, prepared.driving)
            else:
                yield Passed(step.event, job, step.latent)
