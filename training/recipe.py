"""What is trained when, as plain data: VAE, face encoder, the paper's stages (arXiv 2504.01724, section 4.1), then
three of ours: guidance put into the weights, the few steps of a sampler learnt on its own path, and the VAE's decoder
once more under its fixed encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dreamactor.errors import InputError

FACE_MODULES = (".face.", "transformer.face_")
ALL_MODULES = ("pose_encoder.", "transformer.")
# The face encoder keeps what its own stage taught it. Trained on with the rest, it forgot the mouth within 2560 steps,
# before the transformer had learnt to read it: Muon's steps are as large for noise as for a signal.


@dataclass(frozen=True)
class Stage:
    """One stage. `mix` has (latent frames, or faces of a clip; clips a step; weight): each step draws one of them.

    `trains` names parameters by parts of their names. `decay` is the share of the steps, at the end, over which the
    learning rate falls to a tenth. `face` is whether face tokens are given, `carried` how often a segment begins with
    a clean latent, `references` how often one, two and three reference frames are given. `latent_noise` is the largest
    deviation of the noise that the decoder has to undo, in units of the normalised latents; `sampled` the share of its
    steps on latents that the transformer made. With `guidance_scale` or `face_scale` the stage's targets are those of
    the transformer that it begins with, guided by all conditions or by the face alone, so that sampling needs no
    second row; it may train nothing but the transformer. With `rollout`, so many steps of Euler's rule, the transformer
    walks some of them from noise by itself and learns the way on from there. Raises InputError for a guided stage that
    trains more, or has a rollout too.
    """

    name: str
    steps: int
    learning_rate: float
    mix: tuple[tuple[int, int, float], ...]
    trains: tuple[str, ...]
    decay: float = 0.0
    face: bool = True
    carried: float = 0.4
    references: tuple[float, float, float] = (0.7, 0.2, 0.1)
    dropout: float = 0.08
    latent_noise: float = 0.0
    sampled: float = 0.0
    guidance_scale: float = 1.0
    face_scale: float = 1.0
    rollout: int = 0

    def __post_init__(self) -> None:
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
        return self.name not in ("vae", "decoder", "expression")

    @property
    def guided(self) -> bool:
        """Whether it needs a teacher for the guidance in its targets."""
        return (self.guidance_scale, self.face_scale) != (1.0, 1.0)


@dataclass(frozen=True)
class Recipe:
    """All of a training run; the same on a GPU and on a CPU."""

    stages: tuple[Stage, ...]
    clips: int = 12000
    validation_clips: int = 48
    sampled_clips: int = 1600
    seed: int = 0
    ema: float = 0.998
    save_seconds: float = 150.0
    sheet_seconds: float = 300.0
    workers: int = 2
    bf16: bool = True
    compiled: bool = False  # halves a step, but compiling a dozen batch shapes takes minutes: for long runs

    def with_steps(self, steps: dict[str, int]) -> Recipe:
        """The same recipe with other step counts by stage name; raises InputError on an unknown name."""
        known = [stage.name for stage in self.stages]
        unknown = sorted(set(steps) - set(known))
        if unknown:
            raise InputError(f"There is no stage {', '.join(unknown)}; the stages are {', '.join(known)}.")
        return replace(self, stages=tuple(replace(s, steps=steps.get(s.name, s.steps)) for s in self.stages))


PUPPET = Recipe(
    stages=(
        Stage("vae", 3000, 2.5e-3, mix=((1, 24, 0.3), (2, 10, 0.4), (3, 6, 0.3)), trains=("vae.",), decay=0.4),
        Stage("expression", 2500, 2e-3, mix=((8, 8, 1.0),), trains=("face_encoder.",), decay=0.4),
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
            "decoder", 6000, 2e-3, mix=((1, 24, 0.3), (2, 10, 0.4), (3, 6, 0.3)), trains=("vae.decoder.",), decay=0.6,
            latent_noise=0.3, sampled=0.3,
        ),
    ),
)  # fmt: skip

TINY = Recipe(
    stages=(
        Stage("vae", 8, 1e-3, mix=((1, 4, 0.5), (2, 2, 0.5)), trains=("vae.",)),
        Stage("expression", 4, 1e-3, mix=((2, 4, 1.0),), trains=("face_encoder.",)),
        Stage("body", 4, 1e-3, mix=((1, 4, 1.0),), trains=("pose_encoder.", "transformer."), face=False),
        Stage("face", 4, 1e-3, mix=((2, 2, 1.0),), trains=FACE_MODULES),
        Stage("all", 6, 1e-3, mix=((1, 4, 0.5), (3, 2, 0.5)), trains=ALL_MODULES, decay=0.5),
        Stage(
            "guidance", 4, 1e-3, mix=((1, 4, 0.5), (3, 2, 0.5)), trains=("transformer.",), guidance_scale=1.5,
            face_scale=2.0,
        ),
        Stage("rollout", 4, 1e-3, mix=((1, 4, 0.5), (3, 2, 0.5)), trains=ALL_MODULES, rollout=3),
        Stage(
            "decoder", 4, 1e-3, mix=((1, 4, 0.5), (2, 2, 0.5)), trains=("vae.decoder.",), latent_noise=0.3, sampled=0.5,
        ),
    ),
    clips=6, validation_clips=2, workers=1, bf16=False,
)  # fmt: skip

RECIPES = {"puppet": PUPPET, "tiny": TINY}


def recipe(preset: str) -> Recipe:
    """The recipe of a preset; raises InputError listing the choices."""
    if preset not in RECIPES:
        raise InputError(f"There is no training recipe for '{preset}'; there is one for {', '.join(RECIPES)}.")
    return RECIPES[preset]
