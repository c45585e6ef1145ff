"""Last step of the ensemble: hands events on, decodes latents as they come, and answers with the video at the end.

It is the first to learn that the caller has gone, and calls the job off then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dreamactor.pipeline.finish import Finisher
from dreamactor.serving.backend import Settings, arrays_of, failure, problem_of, response, sessions, shared_jobs
from dreamactor.serving.problem import Problem
from dreamactor.serving.wire import Passed, pack_bytes


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        self.settings = Settings.from_args(args)
        self.decoder, self.jobs = sessions(self.settings.manifest())["vae_decoder"], shared_jobs()
        self.finisher: Finisher | None = None
        self.problem: Problem | None = None
        self.job = ""

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        try:
            passed = Passed.from_arrays(arrays_of(request))
        except Exception as error:
            return failure(problem_of(error, self.settings.model))
        if passed.framing is not None and self.job != passed.job and self.jobs.wanted(self.job):
            return failure(Problem("INVALID_ARGUMENT", "Another job's video is in the making."))
        video = b""
        try:
            video = self.video(passed, request)
        except Exception as error:
            self.forget(passed.job, problem_of(error, self.settings.model))
            self.jobs.call_off(passed.job)
        if request.is_cancelled():
            self.jobs.call_off(passed.job)
        mine = self.job == passed.job
        problem = (self.problem if mine else None) or passed.problem
        if passed.last:
            if mine:
                self.forget()
            if problem is not None:
                return failure(problem)
        return response({"EVENT": pack_bytes(passed.event.to_json()), "VIDEO": pack_bytes(video)})

    def video(self, passed: Passed, request: Any) -> bytes:
        """Takes a latent if there is one; the finished MP4 with the last response, else no bytes."""
        if passed.framing is not None:
            self.forget(passed.job)
            self.finisher = Finisher(self.decoder, passed.framing, passed.driving)
        finisher = self.finisher if self.job == passed.job else None
        if finisher is not None and passed.latent is not None:
            with self.jobs.watching(passed.job, request.is_cancelled):  # decoding may take longer than a step
                finisher.add(passed.latent)
        if finisher is None or passed.event.stage != "done":
            return b""
        return finisher.close()

    def forget(self, job: str = "", problem: Problem | None = None) -> None:
        """Drops the video in the making. `denoise` makes one at a time: what is here is of `job` or of a dead one."""
        if self.finisher is not None:
            self.finisher.abort()
        self.finisher, self.job, self.problem = None, job, problem

    def finalize(self) -> None:
        self.forget()
        self.jobs.close()
