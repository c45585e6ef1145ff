"""The peers section: other precisions of the engines, PyTorch eager and torch.compile, each through the same pipeline.

First every network by itself, then the whole pipeline, then what lies between landmarks and MP4, the cases in turn.
Engines are set against PyTorch on the same device only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from dreamactor.benchmark import inputs, peers
from dreamactor.benchmark.engine_sets import label, on_gpu, runtime_name
from dreamactor.benchmark.run import Bench
from dreamactor.benchmark.statistics import paired_ratio
from dreamactor.benchmark.timing import Case, Timing, interleave
from dreamactor.engines import Engines
from dreamactor.engines.session import Array
from dreamactor.errors import DreamActorError
from dreamactor.fidelity import psnr
from dreamactor.motion.limits import Limits
from dreamactor.motion.prepare import MotionInputs
from dreamactor.motion.prepare import prepare as prepare_motion
from dreamactor.pipeline import Animator, Options
from dreamactor.pipeline.denoise import denoise
from dreamactor.pipeline.prepare import encode

ON_GPU = "-cuda"  # ends the name of a peer that runs on the GPU
VIDEO_BOUND = 30.0  # dB of PSNR against the main set's video, as at the build of a quantised set


@dataclass(frozen=True)
class Group:
    """Engines of one device and the PyTorch peers on it, by the names of their rows. The peers were checked against the
    first of `ours`."""

    ours: Mapping[str, Engines]
    rivals: Mapping[str, Engines]

    @property
    def everyone(self) -> dict[str, Engines]:
        return {**self.ours, **self.rivals}


def compare_peers(bench: Bench) -> None:
    """Adds `peer/`, `networks/` and `pipeline/` timings and the summary's speedups; who differs gets no figure."""
    preset, clips = bench.main.preset, bench.settings.clips
    media, options = inputs.media(), Options(max_frames=preset.segment_frames)
    given = prepare_motion(
        [media.reference], media.driving, preset.height, preset.width, preset.fps, Limits(), options.max_frames
    )
    variants = {runtime_name(bench.main.manifest): bench.main, **_precisions(bench, given, options)}
    with ExitStack() as inside:
        groups = _groups(bench, variants, inside)
        for group in groups:
            _networks_alone(bench, group)
        everyone = {name: engines for group in groups for name, engines in group.everyone.items()}
        whole: dict[str, Case] = {
            name: partial(Animator(engines).animate, [media.reference], media.driving, options)
            for name, engines in everyone.items()
        }
        pipelines = _keep(bench, "pipeline", interleave(whole, clips))
        between: dict[str, Case] = {
            name: partial(run_networks, engines, given, options) for name, engines in everyone.items()
        }
        networks = _keep(bench, "networks", interleave(between, clips))
    _speedups(bench, groups, pipelines, networks)


def _speedups(
    bench: Bench, groups: Sequence[Group], pipelines: Mapping[str, Timing], networks: Mapping[str, Timing]
) -> None:
    """How many times as fast as each peer the engines on its device are, above 1 where they are faster."""
    for group in groups:
        for rival in group.rivals:
            for name, engines in group.ours.items():
                suffix = "" if engines is bench.main else f"_{name}"
                speedup = paired_ratio(pipelines[rival].seconds, pipelines[name].seconds)
                kind = rival.removesuffix(ON_GPU)
                bench.report["summary"][f"pipeline_speedup_over_{kind}{suffix}"] = speedup.to_dict()
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
    """The other sets by label, as far as their video is that of the main set."""
    found, expected = {}, run_networks(bench.main, given, options)
    for name, engines in bench.sets.items():
        if engines is bench.main:
            continue
        decibels = psnr(run_networks(engines, given, options), expected)
        bench.report["peers"][name] = {"video_psnr_db": decibels}
        if decibels >= VIDEO_BOUND:
            found[name] = engines
        else:
            bench.report["not_run"][f"pipeline in {name}"] = (
                f"its video is {decibels:.1f} dB from {label(bench.main.manifest)}'s; {VIDEO_BOUND:g} are wanted"
            )
    if len(bench.sets) == 1 and bench.settings.engines is None:
        bench.report["not_run"]["other precisions of the pipeline"] = (
            f"only {label(bench.main.manifest)} is built; 'dreamactor build --precision int8' gives another"
        )
    return found


def _groups(bench: Bench, variants: Mapping[str, Engines], inside: ExitStack) -> list[Group]:
    """The engines by device, the main set's first, each with its peers."""
    groups = []
    for device in dict.fromkeys(on_gpu(engines.manifest) for engines in variants.values()):
        ours = {name: engines for name, engines in variants.items() if on_gpu(engines.manifest) == device}
        groups.append(Group(ours, _rivals(bench, next(iter(ours.values())), inside)))
    return groups


def _rivals(bench: Bench, ours: Engines, inside: ExitStack) -> dict[str, Engines]:
    """PyTorch eager and compiled behind the pipeline's interface where `ours` runs, compiled ahead of the clock. Both
    run one model: it is loaded once."""
    found: dict[str, Engines] = {}
    where = ON_GPU if on_gpu(ours.manifest) else ""
    try:
        place = peers.Place.beside(ours.manifest)
        if place.device == "cuda":
            inside.enter_context(peers.plain())
        eager = peers.torch_engines(ours, place, bench.settings.checkpoint)
    except Exception as error:
        bench.report["not_run"] |= {f"peer {kind}{where}": _reason(error) for kind in ("eager", "compile")}
        return found
    for kind in ("eager", "compile"):
        name = kind + where
        try:
            rival = peers.compiled(eager) if kind == "compile" else eager
            seconds = peers.compile_for(rival)
            rows = peers.agreement(ours, rival, inputs.Size.of(ours.preset))
        except Exception as error:
            bench.report["not_run"][f"peer {name}"] = _reason(error)
            continue
        bench.report["peers"][name] = {
            "device": place.device, "dtype": place.dtype, "first_run_seconds": seconds,
            "agreement": [vars(row) for row in rows],
        }  # fmt: skip
        if all(row.passed for row in rows):
            found[name] = rival
        else:
            bad = ", ".join(row.network for row in rows if not row.passed)
            bench.report["not_run"][f"peer {name}"] = f"its outputs differ from the engines' in {bad}: no figure"
    return found


def _reason(error: Exception) -> str:
    """Of an error of ours, or of PyTorch's own (a compiler that is missing, above all)."""
    if isinstance(error, DreamActorError):
        return str(error)
    return f"PyTorch failed with {type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def _networks_alone(bench: Bench, group: Group) -> None:
    """Every network by itself, the peers beside the engines they were checked against; those of other precisions are
    the engine section's."""
    first = next(iter(group.ours))
    for network in group.ours[first].sessions if group.rivals else ():
        single = inputs.network_inputs(bench.main.preset, network, inputs.Size.of(bench.main.preset), 4)
        cases: dict[str, Case] = {
            name: partial(engines.session(network).run, single)
            for name, engines in {first: group.ours[first], **group.rivals}.items()
        }
        _keep(bench, f"peer/{network}", interleave(cases, bench.settings.rounds))


def _keep(bench: Bench, group: str, timings: Mapping[str, Timing]) -> Mapping[str, Timing]:
    for name, timing in timings.items():
        bench.add(Timing(f"{group}/{name}", timing.samples))
    return timings
