"""Puppet photos for the demo: `python -m dreamactor.training.characters.example_photos --output examples`.

Characters of the test split, standing still and looking at the camera. Each PNG carries its true pose
(`dreamactor.motion.metadata`), because a landmark model for photographs need not find a drawn person.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamactor.errors import guarded
from dreamactor.motion.metadata import embed_pose
from dreamactor.motion.retarget import Scale, only
from dreamactor.training.assets import mocap_folder
from dreamactor.training.characters.backdrop import make_backdrop
from dreamactor.training.characters.mocap import axis_rotation, resample
from dreamactor.training.characters.performance import Score, calm, perform
from dreamactor.training.characters.scene import SUPERSAMPLE, Scene, Scenes, frame_camera, pose_sequence, render_frame
from dreamactor.training.characters.signals import Expression

SIZE = 384
PHOTOS: dict[str, tuple[int, Scale]] = {
    "puppet_face": (45, "face"),
    "puppet_half": (40, "half"),
    "puppet_full": (16, "full"),
}
"""File name: character seed of the test split, framing."""


def photo(scenes: Scenes, seed: int, framing: Scale) -> Scene:
    """A still scene of one frame: the character of a test seed, looking at the camera."""
    rng = np.random.default_rng([seed, 31])
    character = scenes.character(seed)
    rate, clip = scenes.clips["dance_b"]
    zero = np.zeros(1)
    face = Expression(zero, zero, zero + 0.3, zero, zero, zero + 1.0, zero, zero)
    score = Score(
        motion=calm(resample(clip, rate, scenes.fps, 1, 0.0, 1.0), 0.03),
        yaw=zero + 0.12,
        tilt=zero,
        head=axis_rotation(1, zero - 0.1),
        gestures=None,
        fingers=np.zeros((1, 2, 5)),
        expression=face,
    )
    performance = perform(character.body, score)
    view = replace(frame_camera(rng, performance, character, framing, scenes.height, scenes.width), ambient=0.8)
    backdrop = make_backdrop(rng, scenes.height * SUPERSAMPLE, scenes.width * SUPERSAMPLE, 0.8)
    return Scene(character, performance, view, backdrop, framing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 with a sentence why on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m dreamactor.training.characters.example_photos", description=__doc__
    )
    parser.add_argument("--output", type=Path, default=Path("examples"), help="folder (default: %(default)s)")
    folder = parser.parse_args(arguments).output
    return guarded(lambda: _write(folder), "example photos")


def _write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scenes = Scenes("test", mocap_folder(), SIZE, SIZE, 12)
    for name, (seed, framing) in PHOTOS.items():
        scene = photo(scenes, seed, framing)
        pose = only(pose_sequence(scene), framing)
        (folder / f"{name}.png").write_bytes(embed_pose(render_frame(scene, 0), pose))
        print(folder / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
