"""The peers section: other precisions of the engines, PyTorch eager and torch.compile, each through the same pipeline.

First every network by itself, then the whole pipeline, then the part between landmarks and MP4, the cases in turn.
Engines are compared with PyTorch on the same device only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from dreamactor.benchmark import inputs, torch_engines
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.engine_sets import label, on_gpu, runtime_name
from dreamactor.benchmark.statistics import paired_ratio
from dreamactor.benchmark.timing import Case, Timing, interleave
from dreamactor.engines import Engines
from dreamactor.errors import DreamActorError
from dreamactor.fidelity import psnr
from dreamactor.interfaces import Size, random_inputs
from dreamactor.motion.limits import Limits
from dreamactor.motion.prepare import MotionInputs
from dreamactor.motion.prepare import prepare as prepare_motion
from dreamactor.pipeline import Animator, Options
from dreamactor.production.capture import animate

ON_GPU = "-cuda"  # ends the name of a peer that runs on the GPU
VIDEO_BOUND = 30.0  # dB of PSNR against the main set's video, as at the build of a quantised set


@dataclass(frozen=True)
class Group:
    """Engines of one device and the PyTorch peers on it, by the names of their rows. The peers were checked against the
    first of `ours`."""

    ours: Mapping[str, Engines]
    peers: Mapping[str, Engines]

    @property
    def everyone(self) -> dict[str, Engines]:
        return {**self.ours, **self.peers}


def compare_peers(bench: Bench) -> None:
    """Adds `peer/`, `networks/` and `pipeline/` timings and the summary's speedups; none for outputs that differ."""
    preset, clips = bench.main.preset, bench.settings.clips
    media, options = inputs.media(), Options(max_frames=preset.segment_frames)
    given = prepare_motion([media.reference], media.driving, preset, Limits(), options.max_frames)
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
            name: partial(animate, engines.sessions, engines.preset, given, options)
            for name, engines in everyone.items()
        }
        networks = _keep(bench, "networks", interleave(between, clips))
    _speedups(bench, groups, pipelines, networks)


def _speedups(
    bench: Bench, groups: Sequence[Group], pipelines: Mapping[str, Timing], networks: Mapping[str, Timing]
) -> None:
    """How many times as fast as each peer the engines on its device are."""
    for group in groups:
        for peer in group.peers:
            for name, engines in group.ours.items():
                suffix = "" if engines is bench.main else f"_{name}"
                speedup = paired_ratio(pipelines[peer].seconds, pipelines[name].seconds)
                kind = peer.removesuffix(ON_GPU)
                bench.report["summary"][f"pipeline_speedup_over_{kind}{suffix}"] = speedup.to_dict()
                alone = paired_ratio(networks[peer].seconds, networks[name].seconds)
                bench.report["peers"][peer][f"networks_speedup{suffix}"] = alone.to_dict()


def _precisions(bench: Bench, given: MotionInputs, options: Options) -> dict[str, Engines]:
    """The other sets by label, those whose video is close to the main set's."""
    found, expected = {}, animate(bench.main.sessions, bench.main.preset, given, options)
    for name, engines in bench.sets.opened.items():
        if engines is bench.main:
            continue
        decibels = psnr(animate(engines.sessions, engines.preset, given, options), expected)
        bench.report["peers"][name] = {"video_psnr_db": decibels}
        if decibels >= VIDEO_BOUND:
            found[name] = engines
        else:
            bench.report["not_run"][f"pipeline in {name}"] = (
                f"its video is {decibels:.1f} dB from {label(bench.main.manifest)}'s; {VIDEO_BOUND:g} are needed"
            )
    if len(bench.sets.opened) == 1 and bench.settings.engines is None:
        bench.report["not_run"]["other precisions of the pipeline"] = (
            f"only {label(bench.main.manifest)} is built; 'dreamactor build --preset {bench.settings.preset_name} "
            "--precision int8 --target cpu' gives another"
        )
    return found


def _groups(bench: Bench, variants: Mapping[str, Engines], inside: ExitStack) -> list[Group]:
    """The engines by device, the main set's first, each with its peers."""
    groups = []
    for device in dict.fromkeys(on_gpu(engines.manifest) for engines in variants.values()):
        ours = {name: engines for name, engines in variants.items() if on_gpu(engines.manifest) == device}
        groups.append(Group(ours, _peers(bench, next(iter(ours.values())), inside)))
    return groups


def _peers(bench: Bench, ours: Engines, inside: ExitStack) -> dict[str, Engines]:
    """PyTorch eager and compiled behind the pipeline's interface where `ours` runs, compiled before anything is timed.
    Both run one model: it is loaded once."""
    found: dict[str, Engines] = {}
    where = ON_GPU if on_gpu(ours.manifest) else ""
    try:
        place = torch_engines.Place.beside(ours.manifest)
        if place.device == "cuda":
            inside.enter_context(torch_engines.plain())
        eager = torch_engines.eager(ours, place, bench.settings.checkpoint)
    except Exception as error:
        bench.report["not_run"] |= {f"peer {kind}{where}": _reason(error) for kind in ("eager", "compile")}
        return found
    for kind in ("eager", "compile"):
        name = kind + where
        try:
            peer = torch_engines.compiled(eager) if kind == "compile" else eager
            seconds = torch_engines.compile_for(peer)
            rows = torch_engines.agreement(ours, peer, Size.of(ours.preset))
        except Exception as error:
            bench.report["not_run"][f"peer {name}"] = _reason(error)
            continue
        bench.report["peers"][name] = {
            "device": place.device, "dtype": place.dtype, "first_run_seconds": seconds,
            "agreement": [vars(row) for row in rows],
        }  # fmt: skip
        if all(row.passed for row in rows):
            found[name] = peer
        else:
            bad = ", ".join(row.network for row in rows if not row.passed)
            bench.report["not_run"][f"peer {name}"] = f"its outputs differ from the engines' in {bad}: no figure"
    return found


def _reason(error: Exception) -> str:
    """What an error says: ours, or PyTorch's own (mostly a missing compiler)."""
    if isinstance(error, DreamActorError):
        return str(error)
    return f"PyTorch failed with {type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def _networks_alone(bench: Bench, group: Group) -> None:
    """Every network by itself, the peers beside the engines they were checked against; those of other precisions are
    the engine section's."""
    first = next(iter(group.ours))
    for network in group.ours[first].sessions if group.peers else ():
        single = random_inputs(bench.main.preset, network, Size.of(bench.main.preset), 4)
        cases: dict[str, Case] = {
            name: partial(engines.session(network).run, single)
            for name, engines in {first: group.ours[first], **group.peers}.items()
        }
        _keep(bench, f"peer/{network}", interleave(cases, bench.settings.rounds))


def _keep(bench: Bench, group: str, timings: Mapping[str, Timing]) -> Mapping[str, Timing]:
    for name, timing in timings.items():
        bench.add(f"{group}/{name}", timing)
    return timings
