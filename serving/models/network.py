"""A network of the engine set as a model of its own, run by the set's CPU session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dreamactor.engines import open_engines
from dreamactor.serving.backend import Settings, arrays_of, failure, problem_of, response


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        self.settings = Settings.from_args(args)
        wanted, key = [self.settings.model], self.settings.public_key
        self.engines = open_engines(self.settings.engines, networks=wanted, public_key=key)
        self.session = self.engines.session(self.settings.model)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        try:
            return response(self.session.run(arrays_of(request)))
        except Exception as error:
            return failure(problem_of(error, self.settings.model))

    def finalize(self) -> None:
        self.engines.close()
