"""Latents of the prepared clips, made once by the frozen VAE."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dreamactor.networks import Networks
from dreamactor.training.data import REFERENCES, ClipStore
from dreamactor.training.parallel import Processes
from dreamactor.training.vae_stage import to_video

SINGLES = (0, 8, 16, 24, 32)
"""Frames of a clip that are also encoded alone, for steps on one latent frame."""

Half = NDArray[np.float16]


class LatentStore:
    """video [N,16,F,h,w], singles [N,5,16,h,w], references [N,6,16,h,w], float16, normalised."""

    def __init__(self, folder: Path) -> None:
        self.video: Half = np.load(folder / "latent_video.npy", mmap_mode="r")
        self.singles: Half = np.load(folder / "latent_singles.npy", mmap_mode="r")
        self.references: Half = np.load(folder / "latent_references.npy", mmap_mode="r")


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
    """Encodes every clip, each process its share; `tag` names the VAE (latents of another are made anew)."""
    marker = store.folder / "latents.json"
    about = {"tag": tag, "count": store.count}
    if marker.is_file() and json.loads(marker.read_text()) == about:
        processes.wait()
        return LatentStore(store.folder)
    device = next(networks.parameters()).device
    grid = (16, store.height // 8, store.width // 8)
    frames = 1 + (store.frames.shape[1] - 1) // 4
    shapes = {"video": (16, frames, *grid[1:]), "singles": (len(SINGLES), *grid), "references": (REFERENCES, *grid)}
    if processes.rank == 0:
        marker.unlink(missing_ok=True)
        for name, shape in shapes.items():
            np.lib.format.open_memmap(
                store.folder / f"latent_{name}.npy", mode="w+", dtype=np.float16, shape=(store.count, *shape)
            ).flush()
    processes.wait()
    arrays = {name: np.load(store.folder / f"latent_{name}.npy", mmap_mode="r+") for name in shapes}
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for i in range(processes.rank, store.count, processes.count):
            clip = store.frames[i]
            arrays["video"][i] = networks.vae.latent(to_video(clip[None]).to(device))[0].float().cpu().numpy()
            stills = np.concatenate([clip[list(SINGLES)], store.references[i]])[:, None]
            single = networks.vae.latent(to_video(stills).to(device))[:, :, 0].float().cpu().numpy()
            arrays["singles"][i], arrays["references"][i] = single[: len(SINGLES)], single[len(SINGLES) :]
    for array in arrays.values():
        array.flush()
    processes.wait()
    if processes.rank == 0:
        marker.write_text(json.dumps(about))
    return LatentStore(store.folder)
