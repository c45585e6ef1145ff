"""Evaluation on characters and motions that training never saw: `evaluate(checkpoint, folder)`.

Writes `report.json`, `report.md` and `contact_sheet.png`. Every figure is given for all clips and by framing; baselines
(a copy of the reference, the VAE's own reconstruction) and ablations (no pose, no face, no reference) stand in the same
table. Measures: `measures.py` and `dreamactor/fidelity.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamactor.checkpoints import WEIGHTS
from dreamactor.contact_sheet import save_png
from dreamactor.errors import InputError
from dreamactor.fidelity import psnr, ssim
from dreamactor.files import make_folder, sha256, write_whole
from dreamactor.motion.retarget import SCALES, Scale
from dreamactor.networks import Networks, load
from dreamactor.pipeline.segments import Segment, plan
from dreamactor.presets import Preset, video_frames
from dreamactor.training import goals, measures
from dreamactor.training.assets import mocap_folder
from dreamactor.training.characters.clip import FRAMES, PHOTO, Clip, enlarge_faces, make_clip
from dreamactor.training.characters.scene import Scene, Scenes, pose_sequence
from dreamactor.training.faces import to_faces
from dreamactor.training.flow_stage import to_controls
from dreamactor.training.sampling import sample
from dreamactor.training.sheets import grid, to_frames
from dreamactor.training.vae_stage import to_video

DRIFT_SEGMENTS = 4
ABLATIONS = ("pose", "face", "reference")
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Settings:
    """What is evaluated, and how it is sampled."""

    clips: int = 16  # of each framing
    drift_clips: int = 2  # of each framing, four segments long
    steps: int | None = None  # None: the preset's
    guidance: float | None = None  # None: the preset's
    seed: int = 0
    limited: float = 0.0  # how often controls lack the limbs outside the framing, which the truth moves all the same


@dataclass(frozen=True)
class Case:
    """One held-out clip with its conditions and truth."""

    scene: Scene
    clip: Clip
    controls: Tensor  # [1,6,T,H,W]
    conditions: dict[str, Tensor]  # of the whole clip, but for the pose, which is encoded segment by segment


class Evaluation:
    """A checkpoint under test."""

    def __init__(self, networks: Networks, mocap: Path, settings: Settings) -> None:
        self.networks, self.preset, self.settings = networks, networks.preset, settings
        self.scenes = Scenes("test", mocap, self.preset.height, self.preset.width, self.preset.fps)
        self.steps = settings.steps or self.preset.steps
        self.guidance = self.preset.guidance_scale if settings.guidance is None else settings.guidance

    @torch.no_grad()
    def case(self, seed: int, framing: Scale, frames: int) -> Case:
        """Renders the clip of a seed and encodes its conditions."""
        scene = self.scenes.scene(seed, frames, framing)
        clip = make_clip(self.scenes, seed, frames, framing, self.settings.limited)
        networks = self.networks
        reference_control = to_controls(_row_of(clip.reference_controls[PHOTO][None]))
        conditions = {
            "motion": networks.face_encoder(to_faces(_row_of(enlarge_faces(clip.faces)))),
            "reference_latent": networks.vae.latent(to_video(_row_of(clip.references[PHOTO][None])))[:, None, :, 0],
            "reference_pose": networks.pose_encoder(reference_control)[:, None, :, 0],
        }
        return Case(scene, clip, to_controls(_row_of(clip.controls)), conditions)

    @torch.no_grad()
    def generate(self, case: Case, latents: int, without: str = "") -> Tensor:
        """Latents [1,16,F,h,w] of the first `latents` latent frames, segment by segment."""
        made: list[Tensor] = []
        carried: Tensor | None = None
        generator = torch.Generator().manual_seed(self.settings.seed)
        for segment in plan(video_frames(latents), self.preset.latent_frames):
            window = self._window(case, segment, without)
            shape = (1, 16, segment.latents, *case.conditions["reference_latent"].shape[-2:])
            latent = sample(self.networks, window, shape, self.steps, self.guidance, generator, carried)
            made.append(latent[:, :, int(segment.carried) :])
            carried = latent[:, :, -1:]
        return torch.cat(made, 2)

    def _window(self, case: Case, segment: Segment, without: str) -> dict[str, Tensor]:
        """A segment's conditions, as the pipeline makes them; zeros for those that it goes `without`."""
        pose = self.networks.pose_encoder(case.controls[:, :, segment.pose_frames])[:, :, segment.pose_context :]
        window = {**case.conditions, "pose_latent": pose, "motion": case.conditions["motion"][:, segment.face_frames]}
        dropped = {"pose": ("pose_latent",), "face": ("motion",), "reference": ("reference_latent", "reference_pose")}
        for name in dropped.get(without, ()):
            window[name] = torch.zeros_like(window[name])
        return window

    @torch.no_grad()
    def frames(self, latent: Tensor) -> Frames:
        return to_frames(self.networks.vae.decode(latent))[0]

    def figures(self, case: Case, latents: int) -> tuple[dict[str, float], Frames]:
        """Everything that is measured on one clip, and the generated frames."""
        length = video_frames(latents)
        truth, poses = case.clip.frames[:length], pose_sequence(case.scene)[:length]
        spoken = case.scene.performance.expression.mouth_open[:length]
        reference = np.repeat(case.clip.references[PHOTO][None], length, axis=0)
        with torch.no_grad():
            ceiling = self.frames(self.networks.vae.latent(to_video(_row_of(truth))))
        made = self.frames(self.generate(case, latents))

        ruler = measures.mouth_ruler(case.scene, length)

        def mouth(frames: Frames) -> float:
            return measures.correlation(measures.mouth_opening(frames, ruler), spoken)

        figures = {
            "psnr": psnr(made, truth),
            "psnr_copy_reference": psnr(reference, truth),
            "psnr_vae": psnr(ceiling, truth),
            "ssim": _ssim(made, truth),
            "ssim_copy_reference": _ssim(reference, truth),
            "ssim_vae": _ssim(ceiling, truth),
            "joint_error": measures.joint_error(made, truth, poses),
            "joint_error_copy_reference": measures.joint_error(reference, truth, poses),
            "identity_error": measures.identity_error(made, truth, poses),
            "mouth_correlation": mouth(made),
            "mouth_correlation_truth": mouth(truth),
            "mouth_correlation_vae": mouth(ceiling),
            "flicker": measures.flicker(made, truth),
            "flicker_vae": measures.flicker(ceiling, truth),
        }
        for name in ABLATIONS:
            ablated = self.frames(self.generate(case, latents, name))
            figures[f"psnr_no_{name}"] = psnr(ablated, truth)
            figures[f"joint_error_no_{name}"] = measures.joint_error(ablated, truth, poses)
            figures[f"identity_error_no_{name}"] = measures.identity_error(ablated, truth, poses)
            figures[f"mouth_correlation_no_{name}"] = mouth(ablated)
        return figures, made

    def drift(self, seed: int, framing: Scale) -> float:
        """PSNR of the first segment minus that of the last, in dB."""
        size = self.preset.latent_frames
        latents = 1 + DRIFT_SEGMENTS * (size - 1)
        case = self.case(seed, framing, video_frames(latents))
        made, truth = self.frames(self.generate(case, latents)), case.clip.frames
        length = 4 * (size - 1)
        return psnr(made[: length + 1], truth[: length + 1]) - psnr(made[-length:], truth[-length:])


def _row_of(frames: Frames) -> Tensor:
    """A clip's frames as a batch of one."""
    return torch.from_numpy(np.array(frames))[None]


def _ssim(a: Frames, b: Frames) -> float:
    """Mean over frames."""
    return float(np.mean([ssim(x, y) for x, y in zip(a, b, strict=True)]))


def evaluate(
    checkpoint: Path | str,
    out: Path | str,
    settings: Settings | None = None,
    preset: Preset | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Evaluates a checkpoint folder and writes `report.json`, `report.md` and `contact_sheet.png` into `out`; returns
    the report.

    Raises InputError for a missing or unfitting checkpoint and for no clips, MissingDependency without motion data.
    """
    settings, out = settings or Settings(), Path(out)
    if settings.clips < 1:
        raise InputError(
            f"An evaluation needs at least one clip of each framing, not {settings.clips}; give --clips 1 or more."
        )
    networks = load(checkpoint, preset)
    make_folder(out)  # before the minutes of work
    evaluation = Evaluation(networks, mocap_folder(), settings)
    began = time.monotonic()
    latents = evaluation.preset.latent_frames
    rows: dict[str, list[dict[str, float]]] = {}
    pictures: list[list[Frames]] = []
    for number, framing in enumerate(SCALES):
        for seed in range(settings.clips):
            case = evaluation.case(1000 * (number + 1) + seed, framing, max(FRAMES, video_frames(latents)))
            figures, made = evaluation.figures(case, latents)
            rows.setdefault(framing, []).append(figures)
            if seed < 4:
                pictures += _rows(case.clip, made)
            say(f"{framing} {seed}: psnr {figures['psnr']:.2f} (vae {figures['psnr_vae']:.2f})")
    drifts: dict[str, list[float]] = {
        f: [evaluation.drift(9000 + i, f) for i in range(settings.drift_clips)] for f in SCALES
    }
    report = _report(evaluation, rows, drifts, round(time.monotonic() - began, 1))
    report["settings"] |= {
        "checkpoint": str(checkpoint), "weights_sha256": sha256(Path(checkpoint) / WEIGHTS),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_whole(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    write_whole(out / "report.md", f"{goals.table(report)}\n{goals.goals(report)}".encode())
    save_png(out / "contact_sheet.png", grid(pictures))
    return report


def _report(
    evaluation: Evaluation, rows: dict[str, list[dict[str, float]]], drifts: dict[str, list[float]], seconds: float
) -> dict[str, Any]:
    """The report. `rows` has a clip's figures each, `drifts` a clip's drift each, by framing."""

    def means(figures: list[dict[str, float]], drift: list[float]) -> dict[str, Any]:
        return {**_over_clips(np.mean, figures), "drift_db": float(np.mean(drift)) if drift else None}

    every = [row for group in rows.values() for row in group]
    preset = evaluation.preset
    return {
        **means(every, [drift for group in drifts.values() for drift in group]),
        "by_framing": {framing: means(group, drifts[framing]) for framing, group in rows.items()},
        "standard_error": _over_clips(standard_error, every),
        "settings": {
            **asdict(replace(evaluation.settings, steps=evaluation.steps, guidance=evaluation.guidance)),
            "preset": preset.name,
            "size": [preset.height, preset.width],
            "frames": preset.segment_frames,
            "seconds": seconds,
        },
    }


def standard_error(values: list[float]) -> float:
    """Standard error of the mean over clips; NaN for a single clip."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _over_clips(statistic: Callable[[list[float]], Any], rows: list[dict[str, float]]) -> dict[str, float | None]:
    """A statistic of each figure over the clips where it is a number, rounded; None where it is one in no clip."""
    found: dict[str, float | None] = {}
    for name in rows[0]:
        values = [row[name] for row in rows if np.isfinite(row[name])]
        value = float(statistic(values)) if values else float("nan")
        found[name] = round(value, 4) if np.isfinite(value) else None
    return found


def _rows(clip: Clip, made: Frames) -> tuple[list[Frames], list[Frames]]:
    """Two rows of the sheet: the reference and the truth, below it the generated frames; driving faces beside both."""
    shown = [min(i, len(made) - 1) for i in (0, 6, 12, 18, 24)]
    photo = clip.references[PHOTO]
    faces = [cv2.resize(clip.faces[i], made.shape[2:0:-1]) for i in shown]
    upper = [photo, *(clip.frames[i] for i in shown), *faces[:2]]
    return upper, [np.zeros_like(photo), *(made[i] for i in shown), *faces[3:5]]
