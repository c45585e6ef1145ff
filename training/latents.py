"""Latents of the prepared clips, made once by the frozen VAE."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.presets import latent_frames
from dreamactor.training.characters.clip import REFERENCES
from dreamactor.training.clip_store import Shapes, fingerprint, open_derived
from dreamactor.training.device_clips import Clips, Shelf
from dreamactor.training.eager import eager
from dreamactor.training.parallel import Processes
from dreamactor.training.vae_stage import to_video

SINGLES = (0, 8, 16, 24, 32)
"""Frames of a clip that are also encoded alone, for steps on one latent frame."""

TOGETHER = 32  # clips encoded at a time by a GPU


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
    """Encodes those of the clips that are not encoded yet, each process its share, and puts them on the clips' shelf of
    latents. `tag` names the VAE: latents of another one are made anew."""
    arrays = open_derived(clips.store.folder / "latents", _shapes(clips), "vae.txt", tag, processes)
    there = arrays.pop("there")
    if clips.latents is None or clips.vae != tag:
        clips.latents, clips.vae = Shelf(arrays, clips.device, room), tag
    rows = np.setdiff1d(clips.pictures.ready, clips.latents.ready)
    missing = rows[~there[rows]]
    processes.wait()  # all have found the same missing before one writes
    together = TOGETHER if clips.device.type == "cuda" else 1
    with torch.autocast(clips.device.type, torch.bfloat16, enabled=bf16):
        for first in range(processes.rank * together, len(missing), processes.count * together):
            chosen = missing[first : first + together]
            for name, latents in _encode(networks, clips, chosen).items():
                arrays[name][chosen] = latents.half().cpu().numpy()
            there[chosen] = True
    processes.wait()
    clips.latents.add(rows)


def _shapes(clips: Clips) -> Shapes:
    """video [N,F,16,h,w], singles [N,5,16,h,w], references [N,6,16,h,w], normalised; there [N]."""
    store = clips.store
    count, grid = store.count, (16, store.height // 8, store.width // 8)
    return {
        "video": ((count, latent_frames(store.frames.shape[1]), *grid), "f2"),
        "singles": ((count, len(SINGLES), *grid), "f2"),
        "references": ((count, REFERENCES, *grid), "f2"),
        "there": ((count,), "?"),
    }


def _encode(networks: Networks, clips: Clips, rows: NDArray[np.int64]) -> dict[str, Tensor]:
    """Latents of some clips, by the names of the arrays that take them."""
    frames = clips.pictures.whole("frames", rows)
    stills = torch.cat([frames[:, list(SINGLES)], clips.pictures.whole("references", rows)], 1)
    video = networks.vae.latent(to_video(frames)).transpose(1, 2)
    still = networks.vae.latent(to_video(stills.flatten(0, 1)[:, None]))[:, :, 0].unflatten(0, stills.shape[:2])
    singles, references = still.split([len(SINGLES), REFERENCES], 1)
    return {"video": video, "singles": singles, "references": references}


def vae_fingerprint(networks: Networks) -> str:
    """Names what latents depend on: the weights of the VAE's encoder, its statistics, and the arrays' layout."""
    vae = networks.vae
    return fingerprint((*vae.encoder.state_dict().values(), vae.shift, vae.scale), b"frames before channels")
