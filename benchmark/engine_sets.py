"""Which engine sets a run measures: the ones asked for, built where they are missing, and what is built beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from dreamactor import paths
from dreamactor.benchmark.settings import Settings
from dreamactor.engines import Engines, Manifest, open_engines, read_manifest
from dreamactor.engines.gpu import local_gpu
from dreamactor.engines.target import RTX_ARCHITECTURES
from dreamactor.errors import DreamActorError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sets:
    """Folders and open sets by label, the main one first; `left_out` says why others are not measured."""

    folders: Mapping[str, Path]
    opened: Mapping[str, Engines]
    left_out: Mapping[str, str] = field(default_factory=dict)


def open_sets(settings: Settings, closing: ExitStack, say: Say) -> Sets:
    """Opens the sets, to be closed with `closing`; builds those that were asked for and are missing.

    A set that was not asked for is left out if it is out of date or does not open; one that was asked for raises
    EngineError or InputError.
    """
    folders = _asked_for(settings, say)
    opened = {name: closing.enter_context(open_engines(folder)) for name, folder in folders.items()}
    left_out: dict[str, str] = {}
    if settings.engines is None:
        for folder in _beside(settings):
            if folder in folders.values():
                continue
            try:
                name = label(_up_to_date(folder, settings.preset_name))
                if name not in opened:
                    opened[name], folders[name] = closing.enter_context(open_engines(folder)), folder
            except DreamActorError as error:
                left_out[str(folder)] = str(error)
        left_out |= _about_the_gpu(settings, folders)
    for name, reason in left_out.items():
        say(f"not measured: {name}: {reason}")
    return Sets(folders, opened, left_out)


def label(manifest: Manifest) -> str:
    """What a set is called in the report: its precision, and its target unless that is the CPU."""
    return manifest.precision if not on_gpu(manifest) else f"{manifest.precision}-{manifest.target}"


def on_gpu(manifest: Manifest) -> bool:
    return manifest.target != "cpu"


def runtime_name(manifest: Manifest) -> str:
    """What runs the set: onnxruntime, onnxruntime-cuda, tensorrt or tensorrt-rtx."""
    runtime = next(iter(manifest.networks.values())).runtime.replace("_", "-")
    return f"{runtime}-cuda" if manifest.target == "cuda" else runtime


def gpu_targets() -> tuple[tuple[str, ...], ...]:
    """The targets this machine's GPU runs, each with its other name; none without a GPU."""
    gpu = local_gpu()
    if gpu is None:
        return ()
    rtx = (("rtx", gpu.architecture),) if gpu.architecture in RTX_ARCHITECTURES else ()
    return (("tensorrt",), ("cuda",), *rtx)


def _asked_for(settings: Settings, say: Say) -> dict[str, Path]:
    if settings.engines is not None:
        return {label(read_manifest(settings.engines)): settings.engines}
    from dreamactor.build import set_at_hand

    wanted = settings.precisions or ("fp32",)
    return {precision: set_at_hand(settings.preset_name, precision, log=say) for precision in wanted}


def _beside(settings: Settings) -> Iterator[Path]:
    """Folders of the preset's sets for this machine: those of the precisions asked for, else all."""
    for target in ("cpu", *(name for names in gpu_targets() for name in names)):
        for precision in settings.precisions or ("*",):
            found = paths.ENGINES.glob(f"{settings.preset_name}-{precision}-{target}/manifest.json")
            yield from sorted(path.parent for path in found)


def _up_to_date(folder: Path, preset: str) -> Manifest:
    """The set's manifest; raises DreamActorError unless it is what would be built now and passed its gates."""
    from dreamactor.production.make import up_to_date
    from dreamactor.production.request import make_request

    manifest = read_manifest(folder)
    request = make_request(preset, manifest.precision, manifest.target, output=folder)
    found = up_to_date(request)
    if found is None:
        raise DreamActorError(
            "it is not what would be built now (other weights, code, versions or options): build it again with "
            f"'dreamactor build --preset {preset} --precision {manifest.precision} --target {manifest.target}', or "
            f"measure it by itself with --engines {folder}"
        )
    if not found.passed:
        raise DreamActorError("it missed its quality gate")
    return manifest


def _about_the_gpu(settings: Settings, folders: Mapping[str, Path]) -> dict[str, str]:
    """What is not measured on this machine's GPU, and the command for it."""
    found, gpu = {}, local_gpu()
    for names in gpu_targets():
        built = [path for path in folders.values() if path.name.endswith(tuple(f"-{name}" for name in names))]
        if gpu is not None and not built:
            found[f"engines by {names[0]} on {gpu.name}"] = (
                f"none is built and up to date; 'dreamactor build --preset {settings.preset_name} --precision fp16 "
                f"--target {names[0]}' makes one"
            )
        if built:
            found[f"stages, service and scaling by {names[0]}"] = (
                f"these are measured for the main set, on the CPU; --engines {built[0]} measures a set whole"
            )
    return found
