"""The one exception family. Every message says what was found, what was expected and what to do."""


class DreamActorError(Exception):
    """Base of every error this project raises on purpose."""


class InputError(DreamActorError):
    """Unusable user input: a file, an option, a tensor. The CLI exits 2, the server answers INVALID_ARGUMENT."""


class EngineError(DreamActorError):
    """An engine is missing, does not match this machine, or fails its verification."""


class MissingDependency(DreamActorError):
    """An optional package or asset is not installed; the message has the command that installs it."""


class Cancelled(DreamActorError):
    """The caller asked to stop; nothing was written."""
