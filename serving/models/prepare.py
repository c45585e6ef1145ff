"""First step of the ensemble: media to latents and tokens, an event at every sign of progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dreamactor.motion.landmarks import Landmarker
from dreamactor.pipeline import Event
from dreamactor.pipeline.events import PREPARE_SHARE
from dreamactor.pipeline.prepare import prepare
from dreamactor.serving.backend import FINAL, Settings, arrays_of, problem_of, response, sessions, shared_jobs
from dreamactor.serving.jobs import WAITING
from dreamactor.serving.problem import Busy
from dreamactor.serving.wire import Prepared, Request


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        self.landmarker = Landmarker()  # if its models are missing, that is said at start-up
        self.settings = Settings.from_args(args)
        manifest = self.settings.manifest()
        self.preset, self.sessions, self.jobs = manifest.preset, sessions(manifest), shared_jobs()

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                sender.send(response(self.work(request, sender).to_arrays()))
            except Exception as error:
                last = Prepared(Event("prepare"), "", problem=problem_of(error, self.settings.model))
                sender.send(response(last.to_arrays()), flags=FINAL)
            else:  # alone: a last response that finds no shared memory is lost, and nothing can be sent after it
                sender.send(flags=FINAL)

    def work(self, request: Any, sender: Any) -> Prepared:
        if self.jobs.count() > WAITING:
            raise Busy(f"{WAITING} clips are waiting already; send this one again when some of them are done.")
        asked = Request.from_arrays(arrays_of(request))
        with self.jobs.open() as job:

            def report(event: Event) -> None:
                self.jobs.require(job)
                sender.send(response(Prepared(event, job).to_arrays()))

            clip = prepare(
                self.sessions,
                self.preset,
                asked.references,
                asked.driving,
                asked.options,
                self.settings.limits,
                report,
                self.landmarker,
            )
        return Prepared(Event("prepare", fraction=PREPARE_SHARE), job, asked.options, asked.driving, clip)
