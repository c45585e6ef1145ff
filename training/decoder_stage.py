"""The decoder's own stage: it learns on what the transformer samples, beside encoded clips.

Sampled latents are wrong in other ways than noisy ones: limbs in pieces, smudged faces. A decoder that is trained on
them, with the true frames as targets, repairs such faults. The encoder, and all that was trained on it, stays as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.presets import video_frames
from dreamactor.training.clip_store import fingerprint, open_derived
from dreamactor.training.device_clips import Clips, Shelf
from dreamactor.training.eager import eager
from dreamactor.training.flow_stage import conditions, whole_batch
from dreamactor.training.parallel import Processes
from dreamactor.training.sampling import sample
from dreamactor.training.vae_stage import face_mask, reconstruction_loss, to_video

TOGETHER = 4  # clips sampled at a time


@eager
def sample_clips(networks: Networks, clips: Clips, count: int, bf16: bool, processes: Processes, room: int = 0) -> None:
    """Samples a segment of each of the first `count` clips and puts them on the clips' shelf of samples. As in use, the
    reference is of another performance, steps and guidance are the preset's. Only what this transformer has not yet
    sampled is made."""
    assert clips.latents is not None
    preset, store, device = networks.preset, clips.store, clips.device
    ready = clips.latents.ready[clips.latents.ready < count]
    sampled_by = (networks.transformer, networks.pose_encoder, networks.face_encoder)
    tag = fingerprint(value for network in sampled_by for value in network.state_dict().values())
    shapes = {
        "video": ((count, preset.latent_frames, 16, store.height // 8, store.width // 8), "f2"),
        "there": ((count,), "?"),
    }
    made = open_derived(store.folder / "sampled", shapes, "transformer.txt", tag, processes)
    there, video = made["there"], made["video"]
    for first in range(processes.rank * TOGETHER, len(ready), processes.count * TOGETHER):
        rows = ready[first : first + TOGETHER]
        if there[rows].all():
            continue
        batch = whole_batch(clips, rows, preset.latent_frames, (3 + first // TOGETHER % 3,))
        generator = torch.Generator(device).manual_seed(first)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            given = conditions(networks, batch)
            latent = sample(networks, given, tuple(batch.latent.shape), preset.steps, preset.guidance_scale, generator)
        video[rows] = latent.transpose(1, 2).half().cpu().numpy()
        there[rows] = True
    processes.wait()
    clips.sampled = Shelf({"video": video}, device, room)
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
