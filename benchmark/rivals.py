"""The peers section: other precisions of the engines, PyTorch eager and torch.compile, each through the same pipeline.

First every network by itself, then the whole pipeline, then what lies between landmarks and MP4, the cases in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from dreamactor.benchmark import inputs, peers
from dreamactor.benchmark.run import Bench
from dreamactor.benchmark.statistics import paired_ratio
from dreamactor.benchmark.timing import Case, Timing, interleave
from dreamactor.engines import Engines
from dreamactor.engines.session import Array
from dreamactor.motion.limits import Limits
from dreamactor.motion.prepare import MotionInputs
from dreamactor.motion.prepare import prepare as prepare_motion
from dreamactor.pipeline import Animator, Options
from dreamactor.pipeline.denoise import denoise
from dreamactor.pipeline.prepare import encode
from dreamactor.production.video_quality import psnr

OURS = "onnxruntime"
VIDEO_BOUND = 30.0  # dB of PSNR against the main set's video, as at the build of a quantised set


def compare_peers(bench: Bench) -> None:
    """Adds `peer/`, `networks/` and `pipeline/` timings and the summary's speedups; who differs gets no figure."""
    ours, preset, settings = bench.main, bench.main.preset, bench.settings
    media, options = inputs.media(), Options(max_frames=preset.segment_frames)
    given = prepare_motion(
        [media.reference], media.driving, preset.height, preset.width, preset.fps, Limits(), options.max_frames
    )
    variants = {OURS: ours, **_precisions(bench, given, options)}
    if len(variants) == 1:
        bench.report["not_run"]["other precisions of the pipeline"] = (
            f"only {ours.manifest.precision} is built; 'dreamactor build --precision int8' gives another"
        )
    rivals = _rivals(bench)
    everyone = {**variants, **rivals}
    for network in ours.sessions:
        single = inputs.network_inputs(preset, network, inputs.Size.of(preset), 4)
        cases: dict[str, Case] = {
            name: partial(engines.session(network).run, single)
            for name, engines in everyone.items()
            if name not in variants or name == OURS  # other precisions of a network are the engine section's
        }
        _keep(bench, f"peer/{network}", interleave(cases, settings.rounds))
    clips: dict[str, Case] = {
        name: partial(Animator(engines).animate, [media.reference], media.driving, options)
        for name, engines in everyone.items()
    }
    pipelines = _keep(bench, "pipeline", interleave(clips, settings.clips))
    between: dict[str, Case] = {
        name: partial(run_networks, engines, given, options) for name, engines in everyone.items()
    }
    networks = _keep(bench, "networks", interleave(between, settings.clips))
    for rival in rivals:
        for name in variants:
            suffix = "" if name == OURS else f"_{name}"
            speedup = paired_ratio(pipelines[rival].seconds, pipelines[name].seconds)
            bench.report["summary"][f"pipeline_speedup_over_{rival}{suffix}"] = speedup.to_dict()
            alone = paired_ratio(networks[rival].seconds, networks[name].seconds)
            bench.report["peers"][rival][f"networks_speedup{suffix}"] = alone.to_dict()


def run_networks(engines: Engines, given: MotionInputs, options: Options) -> Array:
    """Everything between the landmarks and the MP4: encoders, denoising, decoder. Returns the frames u8 [T,3,H,W]."""
    sessions, preset = engines.sessions, engines.preset
    clip = encode(sessions, preset, given)
    videos = [
        sessions["vae_decoder"].run({"latent": part.latent[None]})["video"][0].swapaxes(0, 1)
        for part in denoise(sessions["denoiser"], preset, clip, options)
        if part.latent is not None
    ]
    return np.concatenate(videos)


def _precisions(bench: Bench, given: MotionInputs, options: Options) -> dict[str, Engines]:
    """The other sets by precision, as far as their video is that of the main set."""
    found, expected = {}, run_networks(bench.main, given, options)
    for precision, engines in bench.sets.items():
        if engines is bench.main:
            continue
        decibels = psnr(run_networks(engines, given, options), expected)
        bench.report["peers"][precision] = {"video_psnr_db": decibels}
        if decibels >= VIDEO_BOUND:
            found[precision] = engines
        else:
            bench.report["not_run"][f"pipeline in {precision}"] = (
                f"its video is {decibels:.1f} dB from {bench.main.manifest.precision}'s; {VIDEO_BOUND:g} are wanted"
            )
    return found


def _rivals(bench: Bench) -> dict[str, Engines]:
    """PyTorch eager and compiled behind the pipeline's interface, compiled ahead of the clock."""
    ours, preset, found = bench.main, bench.main.preset, dict[str, Engines]()
    sizes = peers.pipeline_sizes(preset, preset.segment_frames)
    for name, compiled in (("eager", False), ("compile", True)):
        rival = peers.torch_engines(ours, compiled, bench.settings.threads)
        seconds = peers.compile_for(rival, sizes)
        rows = peers.agreement(ours, rival, inputs.Size.of(preset))
        bench.report["peers"][name] = {"first_run_seconds": seconds, "agreement": [vars(row) for row in rows]}
        if all(row.passed for row in rows):
            found[name] = rival
        else:
            bad = ", ".join(row.network for row in rows if not row.passed)
            bench.report["not_run"][f"peer {name}"] = f"its outputs differ from the engines' in {bad}: no figure"
    return found


def _keep(bench: Bench, group: str, timings: Mapping[str, Timing]) -> Mapping[str, Timing]:
    for name, timing in timings.items():
        bench.add(Timing(f"{group}/{name}", timing.samples))
    return timings
