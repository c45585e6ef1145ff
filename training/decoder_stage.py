"""The decoder's own stage: beside encoded clips it learns on what the transformer makes of them.

A sampler's latents are off in ways that noise is not: limbs in pieces, smudged faces. A decoder that has met them and
the frames they should have become draws them whole; the encoder, and all that was trained on it, stay as they are.
"""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.presets import video_frames
from dreamactor.training.clips import Clips, Shelf
from dreamactor.training.eager import eager
from dreamactor.training.flow_stage import conditions, whole_batch
from dreamactor.training.parallel import Processes
from dreamactor.training.sample import sample
from dreamactor.training.store import ClipStore, Mode, open_arrays
from dreamactor.training.vae_stage import face_mask, reconstruction_loss, to_video

FOLDER = "sampled"
TOGETHER = 4  # clips sampled at a time


class SampledStore:
    """video [N,F,16,h,w], float16, normalised: one segment from each of the first N clips; there [N]."""

    def __init__(self, store: ClipStore, count: int, frames: int, mode: Mode = "r") -> None:
        shapes = {
            "video": ((count, frames, 16, store.height // 8, store.width // 8), "f2"),
            "there": ((count,), "?"),
        }
        for name, array in open_arrays(store.folder / FOLDER, shapes, mode).items():
            setattr(self, name, array)

    video: NDArray[np.float16]
    there: NDArray[np.bool_]


@eager
def sample_clips(networks: Networks, clips: Clips, count: int, bf16: bool, processes: Processes, room: int = 0) -> None:
    """Samples a segment of each of the first `count` clips that is not there yet, as a user would: a photo of another
    performance, the preset's steps and guidance. Those of another transformer are made anew. They are laid on the
    clips' shelf of samples."""
    assert clips.latents is not None
    preset, store, device = networks.preset, clips.store, clips.device
    ready = clips.latents.ready[clips.latents.ready < count]
    count, folder = min(count, store.count), store.folder / FOLDER
    tag, marker = _fingerprint(networks), folder / "transformer.txt"
    if processes.rank == 0:
        if not marker.is_file() or marker.read_text() != tag:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            marker.write_text(tag)
        SampledStore(store, count, preset.latent_frames, "r+")  # at its full size, before the others open it
    processes.wait()
    made = SampledStore(store, count, preset.latent_frames, "r+")
    for first in range(processes.rank * TOGETHER, len(ready), processes.count * TOGETHER):
        rows = ready[first : first + TOGETHER]
        if made.there[rows].all():
            continue
        batch = whole_batch(clips, rows, preset.latent_frames, (3 + first // TOGETHER % 3,))
        generator = torch.Generator(device).manual_seed(first)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            given = conditions(networks, batch)
            latent = sample(networks, given, tuple(batch.latent.shape), preset.steps, preset.guidance_scale, generator)
        made.video[rows] = latent.transpose(1, 2).half().cpu().numpy()
        made.there[rows] = True
    processes.wait()
    clips.sampled = Shelf({"video": made.video}, device, room)
    clips.sampled.add(ready)


def sampled_batch(
    clips: Clips, rng: np.random.Generator, frames: int, count: int, share: slice = slice(None)
) -> tuple[Tensor, Tensor, Tensor]:
    """(latent [B,16,F,h,w], video [B,3,T,H,W] in [-1,1], weight [B,1,T,H,W]): windows of sampled latents with the
    clips' own frames; there is no frame for the first latent of a window that begins within its clip."""
    sampled, pictures = clips.sampled, clips.pictures
    assert sampled is not None
    start = int(rng.integers(sampled.arrays["video"].shape[1] - frames + 1)) if frames > 1 else 0
    rows = rng.choice(sampled.ready, size=count)[share]
    window = np.tile(start + np.arange(frames), (len(rows), 1))
    seen = np.tile(np.arange(4 * start + min(start, 1), 4 * start + video_frames(frames)), (len(rows), 1))
    video, heads, mouths = (pictures.take(name, rows, seen) for name in ("frames", "heads", "mouths"))
    return (
        sampled.take("video", rows, window).transpose(1, 2).float(),
        to_video(video),
        face_mask(heads, mouths, clips.store.height, clips.store.width),
    )


def sampled_loss(networks: Networks, latent: Tensor, video: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch of sampled latents, and what to log."""
    decoded = networks.vae.decode(latent).float()[:, :, -video.shape[2] :]
    loss, psnr = reconstruction_loss(decoded, video, weight)
    return loss, {"loss": loss.detach(), "psnr": psnr}


def _fingerprint(networks: Networks) -> str:
    """Of what samples depend on."""
    digest = hashlib.sha256()
    for part in (networks.transformer, networks.pose_encoder, networks.face_encoder):
        for value in part.state_dict().values():
            digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
