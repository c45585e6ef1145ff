"""Latents of the prepared clips, made once by the frozen VAE."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import torch
from numpy.typing import NDArray

from dreamactor.networks import Networks
from dreamactor.training.clip import REFERENCES
from dreamactor.training.clips import Clips, Shelf
from dreamactor.training.eager import eager
from dreamactor.training.parallel import Processes
from dreamactor.training.store import ClipStore, Mode, open_arrays
from dreamactor.training.vae_stage import to_video

SINGLES = (0, 8, 16, 24, 32)
"""Frames of a clip that are also encoded alone, for steps on one latent frame."""

FOLDER = "latents"
TOGETHER = 32  # clips encoded at a time by a GPU
Half = NDArray[np.float16]


class LatentStore:
    """video [N,F,16,h,w], singles [N,5,16,h,w], references [N,6,16,h,w], float16, normalised; there [N]."""

    def __init__(self, store: ClipStore, mode: Mode = "r") -> None:
        grid = (16, store.height // 8, store.width // 8)
        frames = 1 + (store.frames.shape[1] - 1) // 4
        shapes = {
            "video": ((store.count, frames, *grid), "f2"),
            "singles": ((store.count, len(SINGLES), *grid), "f2"),
            "references": ((store.count, REFERENCES, *grid), "f2"),
            "there": ((store.count,), "?"),
        }
        for name, array in open_arrays(store.folder / FOLDER, shapes, mode).items():
            setattr(self, name, array)

    def shelf(self, device: torch.device, room: int) -> Shelf:
        """Where batches are taken from; nothing on it is ready yet."""
        return Shelf({name: getattr(self, name) for name in ("video", "singles", "references")}, device, room)

    video: Half
    singles: Half
    references: Half
    there: NDArray[np.bool_]


@eager
def set_statistics(networks: Networks, clips: Clips, count: int = 96) -> None:
    """Measures the raw latents' mean and deviation over some clips and records them in the VAE."""
    raws = []
    for row in clips.pictures.ready[:count]:
        video = to_video(clips.pictures.whole("frames", np.array([row])))
        raws.append(networks.vae.encode(video)[0].float().transpose(0, 1).flatten(1))
    raw = torch.cat(raws, 1)
    networks.vae.set_statistics(raw.mean(1), raw.std(1).clamp_min(1e-4))


@eager
def encode_clips(networks: Networks, clips: Clips, tag: str, bf16: bool, processes: Processes, room: int = 0) -> None:
    """Encodes those of the clips that are not encoded yet, each process its share, and lays them on the clips' shelf of
    latents. `tag` names the VAE: latents of another one are made anew."""
    folder = clips.store.folder / FOLDER
    marker = folder / "vae.txt"
    if clips.latents is None or clips.vae != tag:  # not by the marker: process 0 may have changed it already
        if processes.rank == 0:
            if not marker.is_file() or marker.read_text() != tag:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                marker.write_text(tag)
            LatentStore(clips.store, "r+")  # at its full size, before the others open it
        processes.wait()
        clips.latents, clips.vae = LatentStore(clips.store).shelf(clips.device, room), tag
    latents, made = LatentStore(clips.store, "r+"), clips.latents
    rows = np.setdiff1d(clips.pictures.ready, made.ready)
    missing = rows[~latents.there[rows]]
    processes.wait()  # all have found the same missing before one writes
    together = TOGETHER if clips.device.type == "cuda" else 1
    with torch.autocast(clips.device.type, torch.bfloat16, enabled=bf16):
        for first in range(processes.rank * together, len(missing), processes.count * together):
            _encode(networks, clips, latents, missing[first : first + together])
    processes.wait()
    made.add(rows)


def _encode(networks: Networks, clips: Clips, latents: LatentStore, rows: NDArray[np.int64]) -> None:
    frames = clips.pictures.whole("frames", rows)
    stills = torch.cat([frames[:, list(SINGLES)], clips.pictures.whole("references", rows)], 1)
    video = networks.vae.latent(to_video(frames)).transpose(1, 2)
    single = networks.vae.latent(to_video(stills.flatten(0, 1)[:, None]))[:, :, 0].unflatten(0, stills.shape[:2])
    latents.video[rows] = video.half().cpu().numpy()
    singles, references = single.half().cpu().split([len(SINGLES), REFERENCES], 1)
    latents.singles[rows], latents.references[rows] = singles.numpy(), references.numpy()
    latents.there[rows] = True


def fingerprint(networks: Networks) -> str:
    """Of what latents depend on: the VAE's encoder and statistics; and of how they are laid out."""
    digest = hashlib.sha256(b"frames before channels")
    for value in (*networks.vae.encoder.state_dict().values(), networks.vae.shift, networks.vae.scale):
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
