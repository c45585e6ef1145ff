"""Last step of the ensemble: hands events on, decodes latents as they come, and answers with the video at the end.

It is the first to learn that the caller has gone, and calls the job off then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dreamactor.errors import EngineError
from dreamactor.pipeline.finish import Finisher
from dreamactor.serving.backend import Settings, arrays_of, failure, response, sessions, shared_jobs
from dreamactor.serving.wire import Passed, pack_bytes


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        self.settings = Settings.from_args(args)
        self.decoder, self.jobs = sessions(self.settings.manifest())["vae_decoder"], shared_jobs()
        self.job = ""
        self.finisher: Finisher | None = None  # `denoise` has one job at a time, so there is one here

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        job = ""
        try:
            passed = Passed.from_arrays(arrays_of(request))
            job = passed.job
            video = self.video(passed, request)
        except Exception as error:
            self.drop()
            self.jobs.call_off(job)
            return failure(error, self.settings.model)
        if request.is_cancelled():
            self.jobs.call_off(job)
            self.drop()
        return response({"EVENT": pack_bytes(passed.event.to_json()), "VIDEO": pack_bytes(video)})

    def video(self, passed: Passed, request: Any) -> bytes:
        """Takes a latent if there is one; the finished MP4 after the last, else no bytes."""
        if passed.framing is not None:
            self.drop()  # what a job that died may have left
            self.job, self.finisher = passed.job, Finisher(self.decoder, passed.framing, passed.driving)
        if passed.latent is None and passed.event.stage != "done":
            return b""
        if self.finisher is None or self.job != passed.job:
            raise EngineError("A part of the video came without its beginning; send the request again.")
        if passed.latent is not None:
            with self.jobs.watching(passed.job, request.is_cancelled):  # decoding may take longer than a step
                self.finisher.add(passed.latent)
        if passed.event.stage != "done":
            return b""
        finisher, self.finisher = self.finisher, None
        return finisher.close()

    def drop(self) -> None:
        if self.finisher is not None:
            self.finisher.abort()
        self.finisher = None

    def finalize(self) -> None:
        self.drop()
