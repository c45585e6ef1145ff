"""The `dreamactor` command. Parsing happens here; the work, and every slow import, in the functions it calls."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dreamactor import __version__
from dreamactor.errors import Cancelled, DreamActorError, InputError

PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 for a failure, 2 for input that cannot be used, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except InputError as error:
        print(f"dreamactor: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Cancelled):
        print("dreamactor: stopped; nothing was written.", file=sys.stderr)
        return 130
    except DreamActorError as error:
        print(f"dreamactor: {error}", file=sys.stderr)
        return 1


def _doctor(options: argparse.Namespace) -> int:
    from dreamactor.doctor import examine

    for finding in examine():
        print(f"{'ok ' if finding.ok else '-- '} {finding.subject:24s} {finding.found}")
        if finding.remedy:
            print(f"    {'':24s} -> {finding.remedy}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from dreamactor import networks, paths
    from dreamactor.export.onnx import export_all
    from dreamactor.export.parity import check_export, format_parity
    from dreamactor.presets import preset

    sizes = preset(options.preset)
    source = options.checkpoint or paths.checkpoint(options.preset)
    model = networks.load(source, sizes) if source else networks.build(sizes)
    if source is None:
        print(f"No checkpoint for '{options.preset}': exporting random weights.")
    files = export_all(model, options.output, on_start=lambda name: print(f"exporting {name}", flush=True))
    rows = check_export(model, files)
    print(format_parity(rows))
    return 0 if all(row.passed for row in rows) else 1


def _build(options: argparse.Namespace) -> int:
    from dreamactor.build import build_set

    log = (lambda line: print(line, file=sys.stderr, flush=True)) if options.print_path else print
    folder = build_set(options.preset, options.precision, options.target, options.checkpoint, options.output, log=log)
    if options.print_path:
        print(folder)
    return 0


def _animate(options: argparse.Namespace) -> int:
    from dreamactor.pipeline.options import Options
    from dreamactor.progress import ProgressBar

    references = [_read(path, "reference") for path in options.reference]
    driving = _read(options.driving, "driving clip")
    _writable(options.output)
    chosen = Options(
        steps=options.steps, guidance_scale=options.guidance, seed=options.seed, max_frames=options.max_frames,
        scale=options.scale, solver=options.solver,
    )  # fmt: skip
    with ProgressBar(options.output.name) as progress:
        if options.server:
            from dreamactor.serving.client import animate

            video = animate(options.server, references, driving, chosen, progress)
        else:
            from dreamactor.build import build_set
            from dreamactor.pipeline import Animator

            folder = options.engines or build_set(options.preset, options.precision, "cpu")
            with Animator.open(folder) as animator:
                video = animator.animate(references, driving, chosen, progress)
    _write_whole(options.output, video)
    print(f"{options.output}: {len(video) / 1e6:.1f} MB")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from dreamactor.build import build_set
    from dreamactor.serving.launcher import ServeOptions, serve
    from dreamactor.serving.process import Listen

    engines = options.engines or build_set(options.preset, options.precision, "cpu")
    listen = Listen(options.host, options.grpc_port, options.http_port, options.metrics_port)
    return serve(ServeOptions(engines, listen))


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read: {error.strerror}.") from error


def _writable(path: Path) -> None:
    """Refuses an output that could not be written, before the minutes of work."""
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"The output {path} cannot be written: give a file name in a folder that exists.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"The output {path} cannot be written: {path.parent} is not writable.")


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"The output {path} cannot be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dreamactor", description="Human animation: from checkpoint to served engines."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="what this machine can run, and what is missing")
    doctor.set_defaults(run=_doctor)

    export = commands.add_parser("export", help="networks to ONNX, checked against PyTorch")
    _model(export)
    export.add_argument("--checkpoint", type=Path, help="folder with model.safetensors and config.json")
    export.add_argument("--output", type=Path, default=Path("build/onnx"), help="folder (default: %(default)s)")
    export.set_defaults(run=_export)

    build = commands.add_parser("build", help="checkpoint to a verified engine set")
    _model(build)
    build.add_argument("--target", default="cpu", help="auto, cpu, cuda, tensorrt, sm75..sm120 (default: %(default)s)")
    build.add_argument("--checkpoint", type=Path, help="folder with model.safetensors and config.json")
    build.add_argument("--output", type=Path, help="folder of the set (default: build/engines/...)")
    build.add_argument("--print-path", action="store_true", help="print only the set's folder")
    build.set_defaults(run=_build)

    animate = commands.add_parser("animate", help="a photo and a driving clip to a video")
    animate.add_argument("--reference", type=Path, action="append", required=True, help="photo; may be repeated")
    animate.add_argument("--driving", type=Path, required=True, help="clip whose motion and sound are taken")
    animate.add_argument("--output", type=Path, required=True, help="MP4 to write")
    animate.add_argument("--server", metavar="HOST:PORT", help="gRPC address of a running server (default: in process)")
    animate.add_argument("--engines", type=Path, help="engine set (default: built from --preset and --precision)")
    _model(animate)
    animate.add_argument("--steps", type=int, help="denoising steps (default: the preset's)")
    animate.add_argument("--guidance", type=float, help="guidance scale, 1 for none (default: the preset's)")
    animate.add_argument("--seed", type=int, default=0)
    animate.add_argument("--max-frames", type=int, help="use only the clip's first frames")
    animate.add_argument("--scale", choices=("face", "half", "full"), help="default: from the reference")
    animate.add_argument("--solver", choices=("euler", "multistep"), default="multistep")
    animate.set_defaults(run=_animate)

    serve = commands.add_parser("serve", help="an engine set behind Triton Inference Server")
    serve.add_argument("--engines", type=Path, help="engine set (default: built from --preset and --precision)")
    _model(serve)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--grpc-port", type=int, default=8001)
    serve.add_argument("--http-port", type=int, default=8000)
    serve.add_argument("--metrics-port", type=int, default=8002)
    serve.set_defaults(run=_serve)
    return parser


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="puppet", help="tiny, puppet or m1 (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: %(default)s")


if __name__ == "__main__":
    sys.exit(main())
