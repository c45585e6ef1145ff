"""`make demo`: a photo and a real clip through the real server over gRPC, and one picture of what went in and out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from dreamactor import paths
from dreamactor.errors import guarded
from dreamactor.presets import Preset

OUTPUT = Path("build/demo")


def main() -> int:
    """Writes build/demo/output.mp4 and build/demo/contact_sheet.png; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dreamactor.demo", description=__doc__)
    parser.add_argument("--preset", default="puppet")
    parser.add_argument("--reference", type=Path, help="photo (default: a character the shipped checkpoint knows)")
    parser.add_argument("--driving", type=Path, help="clip (default: the short demo clip)")
    parser.add_argument("--hide-driver", action="store_true", help="a contact sheet without the clip's frames")
    options = parser.parse_args()
    return guarded(lambda: run(options.preset, options.reference, options.driving, options.hide_driver), "demo")


def run(preset: str, reference: Path | None, driving: Path | None, hide_driver: bool = False) -> None:
    """Builds what is missing, serves it, calls it, and draws the contact sheet."""
    from dreamactor.build import set_at_hand
    from dreamactor.files import read_file, write_whole
    from dreamactor.motion.assets import default_folder
    from dreamactor.pipeline import Options
    from dreamactor.presets import preset as find_preset
    from dreamactor.production.make import weights_of
    from dreamactor.progress import ProgressBar
    from dreamactor.serving.client import animate
    from dreamactor.serving.launcher import ServeOptions, Server, stoppable
    from dreamactor.serving.process import Listen

    media = default_folder() / "media"
    engines = set_at_hand(preset)  # fp32 on the CPU, which every machine runs
    trained = weights_of(engines) != "random"
    known = paths.shipped("examples/puppet_face.png") if trained else []
    reference = reference or (known[0] if known else media / "astronaut.png")
    driving = driving or media / "single_face.mp4"
    photo, clip = read_file(reference, "reference"), read_file(driving, "driving clip")
    print(f"reference {reference.name}, driving clip {driving.name}, preset {preset}")
    started = time.monotonic()
    listen = Listen(grpc_port=0, http_port=0, metrics_port=0)
    with stoppable(), Server.start(ServeOptions(engines, listen)) as server:
        print(f"Triton Inference Server is up at {server.address} after {time.monotonic() - started:.1f} s")
        started = time.monotonic()
        with ProgressBar("demo") as progress:
            video = animate(server.address, [photo], clip, Options(), progress)
        print(f"animated over gRPC in {time.monotonic() - started:.1f} s")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    write_whole(OUTPUT / "output.mp4", video)
    _draw_sheet(photo, clip, video, find_preset(preset), hide_driver)
    print(f"wrote {OUTPUT / 'output.mp4'} and {OUTPUT / 'contact_sheet.png'}")
    if not trained:
        print(
            f"The '{preset}' networks have random weights: the output shows no person. With a checkpoint in "
            f"checkpoints/{preset}/ (config.json and its weights) it does."
        )


def _draw_sheet(reference: bytes, driving: bytes, video: bytes, preset: Preset, hide_driver: bool) -> None:
    from dreamactor.contact_sheet import job_sheet, save_png
    from dreamactor.motion.clip import decode_clip
    from dreamactor.motion.prepare import prepare

    inputs = prepare([reference], driving, preset)
    clip = decode_clip(driving, preset.fps)
    output = decode_clip(video, preset.fps)
    driver = None if hide_driver else clip.frames
    sheet = job_sheet(inputs.references[0], driver, inputs.controls[:], output.frames)
    save_png(OUTPUT / "contact_sheet.png", sheet)


if __name__ == "__main__":
    sys.exit(main())
