"""A bare Triton client, as a stranger would write it: tritonclient and the design's tensor names, nothing of ours.

Run as a script it streams one request and prints every event: `python raw.py HOST:PORT PHOTO CLIP OPTIONS`.
"""

import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException


def tensor(name, values, kind="BYTES"):
    array = np.array(values, dtype=object if kind == "BYTES" else kind.lower())
    made = grpc.InferInput(name, list(array.shape), "BYTES" if kind == "BYTES" else "INT32")
    made.set_data_from_numpy(array)
    return made


def stream(address, inputs, on_event=lambda event: None):
    """The last answer's VIDEO; raises InferenceServerException."""
    answers = queue.Queue()
    with grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("dreamactor", inputs)
        while True:
            result, error = answers.get(timeout=120)
            if error is not None:
                raise error
            on_event(result.as_numpy("EVENT")[0])
            if result.as_numpy("VIDEO")[0]:
                return result.as_numpy("VIDEO")[0]


def refused(address, inputs):
    """The message with which a request is refused."""
    try:
        stream(address, inputs)
    except InferenceServerException as error:
        return error.message()
    raise AssertionError("the request was accepted")


if __name__ == "__main__":
    address, photo, clip, options = sys.argv[1:]
    stream(
        address,
        [
            tensor("REFERENCE_IMAGE", [Path(photo).read_bytes()]),
            tensor("DRIVING_VIDEO", [Path(clip).read_bytes()]),
            tensor("OPTIONS", [options.encode()]),
        ],
        lambda event: print(event.decode(), flush=True),
    )
