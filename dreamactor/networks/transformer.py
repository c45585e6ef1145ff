"""The diffusion transformer of DreamActor-M1 (arXiv 2504.01724, section 3; sizes and finer layout are our choice).

Noise tokens and reference tokens run through the same weights as two streams and meet in self-attention. Reference
tokens carry no noise, so their timestep is 0; so is that of a latent frame carried over from the previous segment.
Only noise tokens attend to the driving face.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamactor import kernels
from dreamactor.errors import InputError
from dreamactor.kernels.sliding_tiles import BlockLayout, sliding_tiles
from dreamactor.networks.positions import rotary_angles, timestep_features
from dreamactor.presets import LATENT_CHANNELS, TEMPORAL_STRIDE, TransformerConfig

TIMESTEP_FEATURES = 256
MODULATIONS = 9  # shift, scale and gate of self-attention, face attention and feed-forward


class Rotary(NamedTuple):
    """Cosine and sine of the tokens' rotary angles, [N, D/2] each."""

    cos: Tensor
    sin: Tensor


@functools.lru_cache(maxsize=8)
def _layout(grid: tuple[int, int, int], device: torch.device) -> BlockLayout:
    """Sliding tiles of a latent of `grid` (frames, rows, columns) tokens."""
    made = sliding_tiles(grid)
    return BlockLayout(*(part.to(device) for part in (made.order, made.inverse, made.index, made.offsets)))


class SelfAttention(nn.Module):
    """Joint attention of both streams over [noise | reference] keys, queries and keys normalised per head.

    With a layout the noise tokens are taken tile by tile, as `rotary` then is, and see the tiles of its lists;
    references see all and are seen by all. x [B,N,C], reference [B,M,C] -> the same.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.scale, self.fp8 = config.num_heads, config.head_dim**-0.5, config.attention == "fp8"
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.q_norm = nn.Parameter(torch.ones(config.head_dim))
        self.k_norm = nn.Parameter(torch.ones(config.head_dim))
        self.out = nn.Linear(config.dim, config.dim)

    def _project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, -1)
        q = kernels.norm_rope(q, self.q_norm, rotary.cos, rotary.sin, self.heads)
        k = kernels.norm_rope(k, self.k_norm, rotary.cos, rotary.sin, self.heads)
        return q, k, v.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self, x: Tensor, reference: Tensor, rotary: Rotary, reference_rotary: Rotary, layout: BlockLayout | None = None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = self._project(x if layout is None else x[:, layout.order], rotary)
        q_reference, k_reference, v_reference = self._project(reference, reference_rotary)
        keys = (k, v, k_reference, v_reference)
        attend = kernels.fp8_attention if self.fp8 else kernels.two_segment_attention
        if layout is None:
            seen = attend(q, *keys, self.scale)
        else:
            seen = kernels.sparse_attention(q, *keys, layout.index, layout.offsets, self.scale)[:, layout.inverse]
        return self.out(seen), self.out(attend(q_reference, *keys, self.scale))


class FaceAttention(nn.Module):
    """Each latent frame's tokens attend to the face tokens of the frames around it.

    x [B,F*P,C], face [B,4*F,C] (four tokens a latent frame) -> [B,F*P,C].
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.scale, self.window = config.num_heads, config.head_dim**-0.5, config.face_window
        self.q = nn.Linear(config.dim, config.dim)
        self.kv = nn.Linear(config.dim, 2 * config.dim)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, face: Tensor, frames: int) -> Tensor:
        q = self.q_norm(self.q(x).unflatten(-1, (self.heads, -1))).transpose(1, 2)
        k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.kv(face).chunk(2, -1))
        k = self.k_norm(k).transpose(1, 2)
        return self.out(kernels.face_attention(q, k, v.transpose(1, 2), frames, self.window, self.scale))


class Block(nn.Module):
    """Self-attention, face attention, feed-forward; each modulated by the timestep of the token's latent frame."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden = int(config.dim * config.ffn_ratio)
        self.attention = SelfAttention(config)
        self.face = FaceAttention(config)
        self.ffn = nn.Sequential(nn.Linear(config.dim, hidden), nn.GELU("tanh"), nn.Linear(hidden, config.dim))
        self.modulation = nn.Parameter(torch.zeros(MODULATIONS, config.dim))
        nn.init.ones_(self.modulation.data[2::3])  # the gates

    def forward(
        self,
        x: Tensor,
        reference: Tensor,
        time: Tensor,
        reference_time: Tensor,
        face: Tensor,
        rotary: Rotary,
        reference_rotary: Rotary,
        layout: BlockLayout | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x [B,F*P,C], reference [B,R*P,C], time [B,F,9,C], reference_time [B,R,9,C], face [B,F*4,C]."""
        shift, scale, gate, face_shift, face_scale, face_gate, ffn_shift, ffn_scale, ffn_gate = (
            time + self.modulation
        ).unbind(2)
        r_shift, r_scale, r_gate, _, _, _, r_ffn_shift, r_ffn_scale, r_ffn_gate = (
            reference_time + self.modulation
        ).unbind(2)

        _, normed = kernels.modulate_norm(x, shift, scale)
        _, r_normed = kernels.modulate_norm(reference, r_shift, r_scale)
        branch, r_branch = self.attention(normed, r_normed, rotary, reference_rotary, layout)

        x, normed = kernels.modulate_norm(x, face_shift, face_scale, branch, gate)
        branch = self.face(normed, face, shift.shape[1])
        x, normed = kernels.modulate_norm(x, ffn_shift, ffn_scale, branch, face_gate)
        reference, r_normed = kernels.modulate_norm(reference, r_ffn_shift, r_ffn_scale, r_branch, r_gate)
        return _gated(x, self.ffn(normed), ffn_gate), _gated(reference, self.ffn(r_normed), r_ffn_gate)


class Transformer(nn.Module):
    """Predicts the velocity (noise minus data) of a noised video latent under its controls."""

    def __init__(self, config: TransformerConfig, motion_channels: int, pose_channels: int) -> None:
        super().__init__()
        self.config = config
        patch_area = config.patch * config.patch
        self.patchify = nn.Linear((LATENT_CHANNELS + pose_channels) * patch_area, config.dim)
        self.reference_embedding = nn.Parameter(torch.zeros(config.dim))
        self.face_norm = nn.RMSNorm(motion_channels, eps=1e-6, elementwise_affine=False)  # zeros stay zeros
        self.face_in = nn.Linear(motion_channels, config.dim)
        self.face_position = nn.Parameter(torch.zeros(TEMPORAL_STRIDE, config.dim))
        self.time_in = nn.Sequential(
            nn.Linear(TIMESTEP_FEATURES, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_out = nn.Linear(config.dim, MODULATIONS * config.dim)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.final_modulation = nn.Parameter(torch.zeros(2, config.dim))
        self.final = nn.Linear(config.dim, LATENT_CHANNELS * patch_area)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.time_out.weight, std=0.02 * self.config.dim**-0.5)
        nn.init.zeros_(self.time_out.bias)
        nn.init.normal_(self.face_position, std=0.5)  # as large as a token: heads tell the four frames apart
        nn.init.normal_(self.reference_embedding, std=0.02)
        nn.init.normal_(self.final.weight, std=0.02)
        nn.init.zeros_(self.final.bias)
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("attention.out.weight", "face.out.weight", "ffn.2.weight")):
                weight.data.mul_((3 * self.config.depth) ** -0.5)

    def _tokens(self, latent: Tensor, pose: Tensor) -> Tensor:
        """[B,16,F,h,w] and [B,Cp,F,h,w] -> patch tokens [B, F*(h/p)*(w/p), C]."""
        size = self.config.patch
        x = torch.cat([latent, pose], 1).unflatten(4, (-1, size)).unflatten(3, (-1, size))
        x = x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        return self.patchify(x)

    def _velocity(self, x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        """Patch values [B, F*rows*columns, 16*p*p] -> [B,16,F,h,w]."""
        size = self.config.patch
        grid = x.reshape(x.shape[0], frames, rows, columns, LATENT_CHANNELS, size, size)
        return grid.permute(0, 4, 1, 2, 5, 3, 6).flatten(5).flatten(3, 4)

    def _time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """timestep [B,F] -> embedding [B,F,C] and the blocks' modulation [B,F,9,C]."""
        features = timestep_features(timestep, TIMESTEP_FEATURES).to(self.time_out.weight.dtype)
        embedding = nn.functional.silu(self.time_in(features))
        return embedding, self.time_out(embedding).unflatten(-1, (MODULATIONS, -1))

    def _face_tokens(self, motion: Tensor) -> Tensor:
        """motion [B,4(F-1)+1,c] -> [B,4F,C]: the first frame fills its group alone."""
        groups = torch.cat([motion[:, :1].expand(-1, TEMPORAL_STRIDE - 1, -1), motion], 1)
        tokens = self.face_in(self.face_norm(groups)).unflatten(1, (-1, TEMPORAL_STRIDE)) + self.face_position
        return tokens.flatten(1, 2)

    def _sliding(self, grid: tuple[int, int, int], device: torch.device) -> BlockLayout | None:
        """The tiles where attention slides; raises InputError where anything but dense would be exported."""
        attention = self.config.attention
        if attention != "dense" and (torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting()):
            raise InputError(
                f"This transformer's attention is '{attention}', which is not exported: a graph is made for any size. "
                "Set it to 'dense'; the weights are the same."
            )
        return _layout(grid, device) if attention == "sliding" else None

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor,
        pose_latent: Tensor,
        motion: Tensor,
        reference_latent: Tensor,
        reference_pose: Tensor,
    ) -> Tensor:
        """One evaluation.

        latent, pose_latent [B,16,F,h,w] (h, w multiples of the patch p); timestep [B,F] in [0,1], 0 for a clean frame;
        motion [B,4(F-1)+1,c]; reference_latent, reference_pose [B,R,16,h,w] -> velocity [B,16,F,h,w].
        The references' own pose maps, as a second input, are our addition: they tell the network which part of the
        photo is which limb.
        """
        size = self.config.patch
        frames, rows, columns = latent.shape[2], latent.shape[3] // size, latent.shape[4] // size
        count = reference_latent.shape[1]
        x = self._tokens(latent, pose_latent)
        reference = self._tokens(reference_latent.transpose(1, 2), reference_pose.transpose(1, 2))
        reference = reference + self.reference_embedding

        head_dim = self.config.head_dim
        times = torch.arange(frames, device=latent.device)
        reference_times = -1 - torch.arange(count, device=latent.device)
        rotary = Rotary(*rotary_angles(times, rows, columns, head_dim, step=size / 2))
        layout = self._sliding((frames, rows, columns), latent.device)
        if layout is not None:
            rotary = Rotary(*(part[layout.order] for part in rotary))
        reference_rotary = Rotary(*rotary_angles(reference_times, rows, columns, head_dim, step=size / 2))

        embedding, time = self._time(timestep)
        _, reference_time = self._time(torch.zeros_like(reference_latent[:, :, 0, 0, 0]))
        face = self._face_tokens(motion)
        for block in self.blocks:
            x, reference = block(x, reference, time, reference_time, face, rotary, reference_rotary, layout)
        shift, scale = (embedding[:, :, None] + self.final_modulation).unbind(2)
        _, normed = kernels.modulate_norm(x, shift, scale)
        return self._velocity(self.final(normed), frames, rows, columns)


def _gated(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """x + gate*branch with a gate per latent frame: [B,F*P,C], [B,F,C]."""
    frames = gate.shape[1]
    return (x.unflatten(1, (frames, -1)) + gate[:, :, None] * branch.unflatten(1, (frames, -1))).flatten(1, 2)
