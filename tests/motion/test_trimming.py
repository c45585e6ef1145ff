"""Networks without what nobody reads: the outputs left are the same to the last bit, and less is computed."""

from __future__ import annotations

import numpy as np
import pytest

from dreamactor.motion.assets import models_folder
from dreamactor.motion.models import Model
from dreamactor.motion.trimming import keep_outputs


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pose_landmark_full", (0, 1, 3, 4)),
        ("pose_landmark_full", (2,)),
        ("pose_landmark_full", (0, 1, 2, 3, 4)),
        ("hand_landmark_full", (1,)),
        ("palm_detection_full", (1,)),
        ("face_landmark", (1,)),
    ],
)
def test_what_is_left_is_what_it_was(name: str, wanted: tuple[int, ...]) -> None:
    from ai_edge_litert.schema_py_generated import Model as Reader

    path = models_folder() / f"{name}.tflite"
    whole, part = Model(path), Model(path, outputs=wanted)
    rng = np.random.default_rng(0)
    for _ in range(2):
        picture = rng.integers(256, size=(whole.side, whole.side, 3), dtype=np.uint8)
        expected, found = whole.run(picture), part.run(picture)
        assert len(found) == len(wanted)
        for index, output in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(output, expected[index])
    content = path.read_bytes()
    before, after = (
        Reader.GetRootAsModel(network, 0).Subgraphs(0).OperatorsLength()
        for network in (content, keep_outputs(content, wanted))
    )
    assert before > 0
    assert after < before or (len(wanted) == len(expected) and after <= before)
