"""The example photos carry a pose that the motion room reads, with the limbs of their framing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from dreamactor.motion.metadata import pose_from_metadata
from dreamactor.motion.retarget import choose_scale
from dreamactor.training.characters.example_photos import PHOTOS, main


def test_photos_are_reproducible_and_carry_their_pose(tmp_path: Path) -> None:
    main(["--output", str(tmp_path)])
    for name, (_, framing) in PHOTOS.items():
        data = (tmp_path / f"{name}.png").read_bytes()
        shipped = (Path(__file__).parents[3] / "examples" / f"{name}.png").read_bytes()
        made, stored = (np.asarray(Image.open(io.BytesIO(png))) for png in (data, shipped))
        assert np.abs(made.astype(int) - stored).max() <= 2
        pose = pose_from_metadata(data, 128, 128)
        assert pose is not None
        assert choose_scale(pose) == framing
        assert 0 < pose.head_center[0, 0] < 128
