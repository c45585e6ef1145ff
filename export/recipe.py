"""A recipe: which precision each kind of layer gets, and what the result must reach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatch

FP32_GATE = 40.0  # dB: TensorRT may use TF32's 10 bits


@dataclass(frozen=True)
class Recipe:
    """How a network is made smaller.

    `high` is the type of everything that is not quantised ("fp32", "fp16", "bf16"); `quantized` the 8-bit type of the
    linear and convolution layers ("", "fp8", "int8"), `attention` whether Q, K, V and the softmax are quantised too.
    `exclude` are patterns of modules that are never quantised, `keep_fp32` of modules that stay FP32 altogether, or but
    for their matrix products and attention where `fp32_products` is False: a target has none in FP32.
    `ranges` is how activation ranges are found: "max" or "entropy". `dynamic` marks the CPU form of INT8, whose
    activation scales are found at run time, `unsigned` that its weights are stored with 128 for zero: right on every
    processor, where signed ones are not. `psnr_gate` is the least PSNR in dB of the video against the FP32 one, on a
    trained checkpoint; `snr_gate` the least signal-to-noise in dB of a network's output, which holds for any.
    """

    name: str
    high: str = "fp32"
    quantized: str = ""
    attention: bool = False
    exclude: tuple[str, ...] = ()
    keep_fp32: tuple[str, ...] = ()
    fp32_products: bool = True
    ranges: str = "max"
    dynamic: bool = False
    unsigned: bool = False
    psnr_gate: float = float("inf")
    snr_gate: float = float("inf")

    def gate(self, precision: str) -> float:
        """The least signal-to-noise in dB of a network that is in `precision`, which may be FP32 in any set."""
        return FP32_GATE if precision == "fp32" else self.snr_gate

    @property
    def calibrated(self) -> bool:
        """Whether the ranges of its activations are found beforehand."""
        return bool(self.quantized) and not self.dynamic

    def may_quantize(self, module: str) -> bool:
        """Whether a layer of this module may be stored in 8 bits."""
        return bool(self.quantized) and not any(fnmatch(module, pattern) for pattern in self.exclude)

    def without(self, *modules: str) -> Recipe:
        """The same with more modules kept in high precision."""
        return replace(self, exclude=(*self.exclude, *modules))


TIMESTEP = ("transformer.time_in*",)  # the layers that read the sines of the timestep
# Small next to the rest, and everything passes through them: first and last layers, timestep and its modulation.
EDGES = (
    "transformer.patchify",
    "transformer.face_in",
    *TIMESTEP,
    "transformer.time_out",
    "transformer.final",
    "vae.encoder.layers.0*",
    "vae.decoder.layers.0*",
    "pose_encoder.encoder.layers.0*",
    "face_encoder.layers.0",
    "face_encoder.out",
)
