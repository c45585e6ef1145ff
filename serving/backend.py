"""What the models of the repository share: Triton's python backend on one side, arrays and our errors on the other.

Imported only inside the server: `triton_python_backend_utils` exists nowhere else.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from dreamactor.engines import Manifest, read_manifest
from dreamactor.engines.session import Array
from dreamactor.errors import Cancelled, DreamActorError, EngineError, InputError
from dreamactor.motion.limits import Limits
from dreamactor.serving.jobs import Jobs, shared_folder
from dreamactor.serving.problem import Busy, Problem
from dreamactor.serving.session import RemoteNetwork

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


@dataclass(frozen=True)
class Settings:
    """What the repository tells a model: its name, the engine set, the caps on input, who must have signed the set."""

    model: str
    engines: Path
    limits: Limits
    public_key: bytes | None

    @classmethod
    def from_args(cls, args: Mapping[str, str]) -> Settings:
        parameters = json.loads(args["model_config"])["parameters"]
        values = {key: value["string_value"] for key, value in parameters.items()}
        limits = Limits(**json.loads(values["limits"])) if "limits" in values else Limits()
        key = bytes.fromhex(values["public_key"]) if "public_key" in values else None
        return cls(args["model_name"], Path(values["engines"]), limits, key)

    def manifest(self) -> Manifest:
        return read_manifest(self.engines, self.public_key)


def shared_jobs() -> Jobs:
    """The running jobs of this server."""
    return Jobs(shared_folder())


class ServedNetwork(RemoteNetwork):
    """A network of the repository, called from another of its models."""

    def call(self, inputs: dict[str, Array]) -> dict[str, Array]:
        request = pb_utils.InferenceRequest(
            model_name=self.name,
            requested_output_names=[spec.name for spec in self.outputs],
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        response = request.exec()
        if response.has_error():
            raise EngineError(f"{self.name} failed: {response.error().message()}")
        return {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}


def sessions(manifest: Manifest) -> dict[str, ServedNetwork]:
    """A session for every network of the set, by name."""
    return {name: ServedNetwork(record) for name, record in manifest.networks.items()}


def arrays_of(request: Any) -> dict[str, Array]:
    """Copies of a request's inputs by name; raises InputError for bytes that are not encoded as BYTES tensors are."""
    arrays = {}
    for tensor in request.inputs():
        try:
            arrays[tensor.name()] = tensor.as_numpy().copy()  # the tensor's memory ends with the request
        except Exception as error:
            raise InputError(f"Input {tensor.name()} cannot be read: {error}") from error
    return arrays


def response(arrays: Mapping[str, Array]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in arrays.items()])


def problem_of(error: BaseException, model: str) -> Problem:
    """What to tell the caller: our own sentences as they are; of anything else only that it is in the server's log."""
    if isinstance(error, InputError):
        return Problem("INVALID_ARGUMENT", str(error))
    if isinstance(error, Cancelled):
        return Problem("CANCELLED", str(error))
    if isinstance(error, Busy):
        return Problem("RESOURCE_EXHAUSTED", str(error))
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    if "shared memory" in str(error):  # Triton's words have the region's name, which is nobody's business
        return Problem("INTERNAL", "The request does not fit the server's shared memory; its log says more.")
    if isinstance(error, DreamActorError):
        return Problem("INTERNAL", str(error))
    return Problem("INTERNAL", f"The server's stage '{model}' failed ({type(error).__name__}); its log says where.")


def failure(problem: Problem) -> Any:
    """An error response. Its text begins with the status, because a stream carries an error's text and no code."""
    codes = {
        "INVALID_ARGUMENT": pb_utils.TritonError.INVALID_ARG,
        "CANCELLED": pb_utils.TritonError.CANCELLED,
        "RESOURCE_EXHAUSTED": pb_utils.TritonError.UNAVAILABLE,
    }
    code = codes.get(problem.status, pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{problem.status}: {problem.message}", code))
