"""Latents of the prepared clips, made once by the frozen VAE."""

from __future__ import annotations

import shutil

import numpy as np
import torch
from numpy.typing import NDArray

from dreamactor.networks import Networks
from dreamactor.training.clip import REFERENCES
from dreamactor.training.parallel import Processes
from dreamactor.training.store import ClipStore, Mode, open_arrays
from dreamactor.training.vae_stage import to_video

SINGLES = (0, 8, 16, 24, 32)
"""Frames of a clip that are also encoded alone, for steps on one latent frame."""

FOLDER = "latents"
Half = NDArray[np.float16]


class LatentStore:
    """video [N,16,F,h,w], singles [N,5,16,h,w], references [N,6,16,h,w], float16, normalised; there [N]."""

    def __init__(self, store: ClipStore, mode: Mode = "r") -> None:
        grid = (16, store.height // 8, store.width // 8)
        frames = 1 + (store.frames.shape[1] - 1) // 4
        shapes = {
            "video": ((store.count, 16, frames, *grid[1:]), "f2"),
            "singles": ((store.count, len(SINGLES), *grid), "f2"),
            "references": ((store.count, REFERENCES, *grid), "f2"),
            "there": ((store.count,), "?"),
        }
        for name, array in open_arrays(store.folder / FOLDER, shapes, mode).items():
            setattr(self, name, array)

    video: Half
    singles: Half
    references: Half
    there: NDArray[np.bool_]


@torch.no_grad()
def set_statistics(networks: Networks, store: ClipStore, clips: int = 96) -> None:
    """Measures the raw latents' mean and deviation over some clips and records them in the VAE."""
    parameter = next(networks.parameters())
    raws = []
    for index in range(min(clips, store.count)):
        video = to_video(store.frames[index][None]).to(parameter.device)
        raws.append(networks.vae.encode(video)[0].float().transpose(0, 1).flatten(1))
    raw = torch.cat(raws, 1)
    networks.vae.set_statistics(raw.mean(1), raw.std(1).clamp_min(1e-4))


@torch.no_grad()
def encode_clips(networks: Networks, store: ClipStore, tag: str, bf16: bool, processes: Processes) -> LatentStore:
    """Encodes the clips that are not encoded yet, each process its share; `tag` names the VAE: latents of another one
    are made anew."""
    folder = store.folder / FOLDER
    marker = folder / "vae.txt"
    if processes.rank == 0:
        if not marker.is_file() or marker.read_text() != tag:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            marker.write_text(tag)
        LatentStore(store, "r+")  # at its full size, before the others open it
    processes.wait()
    latents, device = LatentStore(store, "r+"), next(networks.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for i in range(processes.rank, store.count, processes.count):
            if latents.there[i]:
                continue
            clip = store.frames[i]
            latents.video[i] = networks.vae.latent(to_video(clip[None]).to(device))[0].float().cpu().numpy()
            stills = np.concatenate([clip[list(SINGLES)], store.references[i]])[:, None]
            single = networks.vae.latent(to_video(stills).to(device))[:, :, 0].float().cpu().numpy()
            latents.singles[i], latents.references[i] = single[: len(SINGLES)], single[len(SINGLES) :]
            latents.there[i] = True
    processes.wait()
    return latents
