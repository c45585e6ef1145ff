"""Pictures of how a run goes: sample sheets and loss curves as PNG."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.presets import video_frames
from dreamactor.training.characters.clip import PHOTO
from dreamactor.training.device_clips import Clips
from dreamactor.training.flow_stage import conditions, whole_batch
from dreamactor.training.sampling import sample
from dreamactor.training.vae_stage import to_video

CLIPS, LATENTS = 8, 3
COLORS = ((40, 90, 200), (200, 80, 40), (40, 150, 70), (150, 60, 160))


@torch.no_grad()
def draw(folder: Path, name: str, networks: Networks, clips: Clips, bf16: bool) -> None:
    """Writes `sheet_<name>.png` (each row: reference, driving face, truth, VAE, samples) and `curves.png`."""
    store, preset, device = clips.store, networks.preset, clips.device
    count = min(CLIPS, len(clips.pictures.ready))
    frames, rows = video_frames(LATENTS), clips.pictures.ready[:count]
    truth = np.asarray(store.frames[rows, :frames])
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        encoded = networks.vae.latent(to_video(torch.from_numpy(truth).to(device)))
        columns = [store.references[rows, PHOTO], truth[:, -1], to_frames(networks.vae.decode(encoded))[:, -1]]
        if clips.latents is not None:
            batch = whole_batch(clips, rows, LATENTS, (PHOTO,))
            made = sample(
                networks, conditions(networks, batch), tuple(batch.latent.shape), preset.steps,
                preset.guidance_scale, torch.Generator().manual_seed(0),
            )  # fmt: skip
            video = to_frames(networks.vae.decode(made))
            columns += [video[:, i] for i in (0, frames // 2, frames - 1)]
    small = np.stack([cv2.resize(face, (store.width, store.height)) for face in store.faces[rows, frames - 1]])
    columns.insert(1, small)
    cv2.imwrite(str(folder / f"sheet_{name}.png"), grid(zip(*columns, strict=True))[..., ::-1])
    curves(folder)


def grid(rows: Iterable[Sequence[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Pictures of one size, beside and below each other."""
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def to_frames(video: Tensor) -> NDArray[np.uint8]:
    """[B,3,T,H,W] in [-1,1] -> uint8 [B,T,H,W,3]."""
    pixels = video.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return np.asarray(pixels.permute(0, 2, 3, 4, 1).cpu().numpy())


def curves(folder: Path, height: int = 320, width: int = 900) -> None:
    """Draws each stage's smoothed loss and, thinner, its validation loss into `curves.png`; each stage has its own
    logarithmic scale."""
    canvas = np.full((height, width, 3), 255, np.uint8)
    for index, path in enumerate(sorted(folder.glob("log_*.csv"))):
        losses = _column(path, "loss")
        if len(losses) < 3:
            continue
        window = max(1, len(losses) // 60)
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        check = folder / f"validation_{path.stem[4:]}.csv"
        lines = [(np.linspace(0, 1, len(smooth)), np.log10(smooth), 2)]
        if check.is_file():
            lines.append((_column(check, "step") / len(losses), np.log10(_column(check, "loss")), 1))
        values = np.concatenate([y for _, y, _ in lines])
        low, high = float(values.min()), float(values.max())
        color = COLORS[index % len(COLORS)][::-1]
        for x, y, thickness in lines:
            down = 20 + (height - 60) * (high - y) / max(high - low, 1e-9)
            points = np.stack([40 + (width - 60) * x, down], 1).astype(np.int32)
            cv2.polylines(canvas, [points], False, color, thickness, cv2.LINE_AA)
        label = f"{path.stem[4:]}: {10**high:.3g} to {losses[-1]:.3g}"
        cv2.putText(canvas, label, (40 + 215 * index, height - 14), 0, 0.45, color, 1, cv2.LINE_AA)
    cv2.imwrite(str(folder / "curves.png"), canvas)


def _column(path: Path, name: str) -> NDArray[np.float64]:
    with path.open() as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])
