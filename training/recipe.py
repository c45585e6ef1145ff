"""What is trained when, as plain data: VAE, face encoder, the paper's stages (arXiv 2504.01724, section 4.1), then
three of ours: guidance is put into the weights, a sampler's few steps are learnt on its own path, and the VAE's decoder
is trained once more under its fixed encoder."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from dreamactor.errors import InputError

FACE_MODULES = (".face.", "transformer.face_")
ALL_MODULES = ("pose_encoder.", "transformer.")
# The face encoder keeps what its own stage taught it. Trained on with the rest, it forgot the mouth within 2560 steps,
# before the transformer had learnt to read it: Muon's steps are as large for noise as for a signal.


Kind = Literal["vae", "expression", "flow", "decoder"]
OPTIONS: dict[str, tuple[Kind, ...]] = {
    "latent_noise": ("vae", "decoder"), "sampled": ("decoder",), "face": ("flow",), "carried": ("flow",),
    "references": ("flow",), "dropout": ("flow",), "guidance_scale": ("flow",), "face_scale": ("flow",),
    "rollout": ("flow",),
}  # fmt: skip
"""Fields of a stage that only some kinds read."""


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe. It lasts `steps` or `seconds`: a stage in seconds takes as long at any speed, but the
    number of its steps, and so its result, differs from run to run.

    Raises InputError for both steps and seconds, for an option that its kind does not read, and for guidance beside a
    rollout or where more is trained than the transformer.
    """

    name: str
    steps: int
    learning_rate: float
    mix: tuple[tuple[int, int, float], ...]  # each step draws one: latent frames (or faces of a clip), clips, weight
    trains: tuple[str, ...]  # parameters, by parts of their names
    kind: Kind = "flow"
    decay: float = 0.0  # share of the stage, at its end, over which the learning rate falls to a tenth
    seconds: float = 0.0
    latent_noise: float = 0.0  # largest deviation of the noise that the decoder has to undo, of normalised latents
    sampled: float = 0.0  # share of the steps on latents that the transformer made
    face: bool = True  # whether face tokens are given
    carried: float = 0.4  # how often a segment begins with a clean latent
    references: tuple[float, float, float] = (0.7, 0.2, 0.1)  # how often one, two and three frames are given
    dropout: float = 0.08  # how often all conditions are left out; each by itself 0.6 times as often
    guidance_scale: float = 1.0  # guidance by all conditions in the targets, by the transformer as the stage finds it
    face_scale: float = 1.0  # the same by the face alone; with either, sampling needs no second row
    rollout: int = 0  # Euler steps: the transformer walks some of them from noise and learns the way on from there

    def __post_init__(self) -> None:
        if self.steps and self.seconds:
            raise InputError(f"Stage '{self.name}' lasts {self.steps} steps and {self.seconds:g} s; give one of them.")
        for field in fields(self):
            kinds = OPTIONS.get(field.name)
            if kinds and self.kind not in kinds and getattr(self, field.name) != field.default:
                raise InputError(
                    f"Stage '{self.name}' is of kind '{self.kind}' and sets {field.name}, which is of kind "
                    f"{' or '.join(kinds)} alone; leave it out, or change the kind."
                )
        if self.guided and any(not module.startswith("transformer.") for module in self.trains):
            raise InputError(
                f"Stage '{self.name}' learns from a guided teacher and trains {', '.join(self.trains)}: both read the "
                "same conditions, and encoders would learn to make the teacher easy. Train 'transformer.' alone."
            )
        if self.guided and self.rollout:
            raise InputError(
                f"Stage '{self.name}' has guidance and a rollout; one learns from a teacher, the other from the data. "
                "Make two stages of it."
            )

    @property
    def on_latents(self) -> bool:
        """Whether it is flow matching, under the frozen encoder; the other stages read pictures."""
        return self.kind == "flow"

    def progress(self, step: int, spent: float) -> float:
        """How far (0..1) through the stage `step` steps and `spent` seconds are."""
        if self.seconds:
            return min(1.0, spent / self.seconds)
        return step / self.steps if step < self.steps else 1.0

    @property
    def guided(self) -> bool:
        """Whether it needs a teacher for the guidance in its targets."""
        return (self.guidance_scale, self.face_scale) != (1.0, 1.0)


@dataclass(frozen=True)
class Recipe:
    """All of a training run; the same on a GPU and on a CPU.

    With `start_clips`, training begins when that many clips are rendered and the rest follow meanwhile: what a step
    draws then depends on when they came, and no longer on its seed alone.
    """

    stages: tuple[Stage, ...]
    clips: int = 12000
    first_clip: int = 0  # seed of the first clip: a run from another's weights renders clips of its own
    validation_clips: int = 48
    sampled_clips: int = 1600  # training clips that the transformer samples for the decoder's stage
    start_clips: int | None = None  # None: training begins when all clips are rendered
    seed: int = 0
    ema: float = 0.998  # decay of the weights' moving average
    save_seconds: float = 150.0
    sheet_seconds: float = 300.0
    workers: int | None = None  # processes that render; None: as many as the cores allow
    bf16: bool = True  # where the device multiplies in bfloat16; float32 elsewhere
    compiled: bool = False  # halves a step; each shape of batch takes seconds on a GPU, minutes on a CPU, to compile

    @property
    def timed(self) -> tuple[Stage, ...]:
        """The stages that last seconds, not steps."""
        return tuple(stage for stage in self.stages if stage.seconds)

    def lasting(self, seconds: float) -> Recipe:
        """The same recipe, its timed stages scaled to take `seconds` in all. Raises InputError where no stage is timed
        and for seconds that are not above zero."""
        if not self.timed:
            raise InputError(
                "All of this recipe's stages are counted in steps, none can be fitted to a time: leave --stage-seconds "
                "out, or choose a recipe with timed stages (--recipe further)."
            )
        if not 0 < seconds < float("inf"):
            raise InputError(f"The timed stages need a time above zero, not {seconds:g} s; give more --stage-seconds.")
        share = seconds / sum(stage.seconds for stage in self.timed)
        return replace(self, stages=tuple(replace(s, seconds=s.seconds * share) for s in self.stages))


PUPPET = Recipe(
    stages=(
        Stage(
            "vae", 3000, 2.5e-3, mix=((1, 24, 0.3), (2, 10, 0.4), (3, 6, 0.3)), trains=("vae.",), kind="vae", decay=0.4,
        ),
        Stage("expression", 2500, 2e-3, mix=((8, 8, 1.0),), trains=("face_encoder.",), kind="expression", decay=0.4),
        Stage(
            "body", 1500, 2e-3, mix=((1, 16, 0.8), (2, 8, 0.2)), trains=("pose_encoder.", "transformer."),
            face=False, references=(0.9, 0.1, 0.0),
        ),
        Stage("face", 400, 2e-3, mix=((1, 16, 0.5), (3, 6, 0.5)), trains=FACE_MODULES),
        Stage(
            "all", 16000, 1.8e-3, mix=((1, 16, 0.55), (3, 6, 0.25), (7, 2, 0.2)), trains=ALL_MODULES, decay=0.6,
            references=(0.85, 0.0, 0.15),
        ),
        Stage(
            "guidance", 1000, 1e-3, mix=((1, 16, 0.4), (7, 2, 0.6)), trains=("transformer.",), decay=0.8,
            references=(0.85, 0.0, 0.15), guidance_scale=1.5, face_scale=2.0,
        ),
        Stage(
            "rollout", 1750, 1.2e-3, mix=((1, 16, 0.35), (7, 2, 0.65)), trains=ALL_MODULES, decay=0.75,
            references=(0.85, 0.0, 0.15), dropout=0.04, rollout=2,
        ),
        Stage(
            "decoder", 6000, 2e-3, mix=((1, 24, 0.3), (2, 10, 0.4), (3, 6, 0.3)), trains=("vae.decoder.",),
            kind="decoder", decay=0.6, latent_noise=0.3, sampled=0.3,
        ),
    ),
)  # fmt: skip

TINY = Recipe(
    stages=(
        Stage("vae", 8, 1e-3, mix=((1, 4, 0.5), (2, 2, 0.5)), trains=("vae.",), kind="vae"),
        Stage("expression", 4, 1e-3, mix=((2, 4, 1.0),), trains=("face_encoder.",), kind="expression"),
        Stage("body", 4, 1e-3, mix=((1, 4, 1.0),), trains=("pose_encoder.", "transformer."), face=False),
        Stage("face", 4, 1e-3, mix=((2, 2, 1.0),), trains=FACE_MODULES),
        Stage("all", 6, 1e-3, mix=((1, 4, 0.5), (3, 2, 0.5)), trains=ALL_MODULES, decay=0.5),
        Stage(
            "guidance", 4, 1e-3, mix=((1, 4, 0.5), (3, 2, 0.5)), trains=("transformer.",), guidance_scale=1.5,
            face_scale=2.0,
        ),
        Stage("rollout", 4, 1e-3, mix=((1, 4, 0.5), (3, 2, 0.5)), trains=ALL_MODULES, rollout=3),
        Stage(
            "decoder", 4, 1e-3, mix=((1, 4, 0.5), (2, 2, 0.5)), trains=("vae.decoder.",), kind="decoder",
            latent_noise=0.3, sampled=0.5,
        ),
    ),
    clips=6, validation_clips=2, workers=1, bf16=False,
)  # fmt: skip

# On from a trained checkpoint, in minutes on one GPU: large batches, all networks once more.
FURTHER = Recipe(
    stages=(
        Stage("vae", 0, 1.2e-3, mix=((3, 80, 1.0),), trains=("vae.",), kind="vae", decay=0.9, seconds=70),
        Stage(
            "expression", 0, 1e-3, mix=((8, 64, 1.0),), trains=("face_encoder.",), kind="expression", decay=0.7,
            seconds=20,
        ),
        Stage(
            "all", 0, 1.8e-3, mix=((1, 96, 0.5), (7, 24, 0.5)), trains=ALL_MODULES, decay=0.8,
            references=(0.85, 0.0, 0.15), seconds=150,
        ),
        Stage(
            "guidance", 0, 8e-4, mix=((1, 96, 0.4), (7, 24, 0.6)), trains=("transformer.",), decay=0.8,
            references=(0.85, 0.0, 0.15), guidance_scale=1.5, face_scale=2.0, seconds=35,
        ),
        Stage(
            "rollout", 0, 8e-4, mix=((1, 96, 0.35), (7, 24, 0.65)), trains=ALL_MODULES, decay=0.8,
            references=(0.85, 0.0, 0.15), dropout=0.04, rollout=2, seconds=35,
        ),
    ),
    clips=7500, first_clip=12000, validation_clips=24, start_clips=500, compiled=True, sheet_seconds=3600.0,
)  # fmt: skip

TINY_FURTHER = Recipe(
    stages=(
        Stage("vae", 0, 1e-3, mix=((1, 4, 0.5), (3, 2, 0.5)), trains=("vae.",), kind="vae", decay=0.5, seconds=1),
        Stage("all", 0, 1e-3, mix=((1, 4, 0.5), (3, 2, 0.5)), trains=ALL_MODULES, decay=0.5, seconds=1),
        Stage(
            "guidance", 0, 1e-3, mix=((1, 4, 0.5), (3, 2, 0.5)), trains=("transformer.",), guidance_scale=1.5,
            face_scale=2.0, seconds=1,
        ),
    ),
    clips=6, validation_clips=2, start_clips=2, workers=1, bf16=False,
)  # fmt: skip

RECIPES = {"puppet": {"whole": PUPPET, "further": FURTHER}, "tiny": {"whole": TINY, "further": TINY_FURTHER}}


def recipe(preset: str, name: str = "whole") -> Recipe:
    """A recipe of a preset; raises InputError listing the choices."""
    if preset not in RECIPES:
        raise InputError(f"There is no training recipe for '{preset}'; there is one for {', '.join(RECIPES)}.")
    if name not in RECIPES[preset]:
        raise InputError(f"'{preset}' has no recipe '{name}'; choose one of {', '.join(RECIPES[preset])}.")
    return RECIPES[preset][name]
