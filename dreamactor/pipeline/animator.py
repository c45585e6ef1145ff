"""One photo (or several) and a driving clip in, an MP4 out: the three stages in one process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from dreamactor.engines import Engines, open_engines
from dreamactor.errors import InputError
from dreamactor.motion.landmarks import Landmarker
from dreamactor.motion.limits import Limits
from dreamactor.pipeline.denoise import denoise
from dreamactor.pipeline.events import Event, OnProgress, ignore
from dreamactor.pipeline.finish import Finisher
from dreamactor.pipeline.options import Options
from dreamactor.pipeline.prepare import prepare


class Animator:
    """Opened once, used for any number of clips, one at a time: a call from another thread waits."""

    def __init__(self, engines: Engines, limits: Limits = Limits()) -> None:
        engines.manifest.require_whole()
        self.engines = engines
        self.limits = limits.for_references(engines.manifest.references)
        self._landmarker: Landmarker | None = None  # opened with the first clip
        self._turn = threading.Lock()

    @classmethod
    def open(
        cls,
        engine_dir: Path | str,
        threads: int | None = None,
        limits: Limits = Limits(),
        public_key: bytes | None = None,
    ) -> Animator:
        """Opens the engine set in `engine_dir`; raises EngineError with the reason when it must not be used. With
        `public_key` (Ed25519, PEM or 32 raw bytes) only a set that its owner has signed."""
        return cls(open_engines(engine_dir, threads, public_key=public_key), limits)

    def animate(
        self,
        references: Sequence[bytes],
        driving: bytes,
        options: Options = Options(),
        on_progress: OnProgress = ignore,
    ) -> bytes:
        """The person of `references` (encoded images) acting `driving` (an encoded clip), as MP4 with its sound.

        The same inputs, options and seed give the same bytes. `on_progress` hears every step and may raise Cancelled.
        Raises InputError for media or options that cannot be used, before any denoising.
        """
        if isinstance(references, bytes | bytearray | memoryview):
            raise InputError("The references are a list of encoded images: put a single one into a list.")
        if any(isinstance(media, str | Path) for media in (*references, driving)):
            raise InputError("References and driving clip are bytes, not the names of files: Path(name).read_bytes().")
        if not isinstance(options, Options):
            raise InputError(f"Options are given as dreamactor.pipeline.Options, not as {type(options).__name__}.")
        with self._turn:
            return self._animate(references, driving, options, on_progress)

    def _animate(self, references: Sequence[bytes], driving: bytes, options: Options, on_progress: OnProgress) -> bytes:
        preset, sessions = self.engines.preset, self.engines.sessions
        self._landmarker = self._landmarker or Landmarker()
        clip = prepare(sessions, preset, references, driving, options, self.limits, on_progress, self._landmarker)
        finisher = Finisher(sessions["vae_decoder"], clip.framing, driving)
        try:
            for denoised in denoise(sessions["denoiser"], preset, clip, options):
                on_progress(denoised.event)
                if denoised.latent is not None:
                    finisher.add(denoised.latent)
            video = finisher.close()
        except BaseException:
            finisher.abort()
            raise
        on_progress(Event("done", fraction=1.0))
        return video

    def close(self) -> None:
        self.engines.close()

    def __enter__(self) -> Animator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
