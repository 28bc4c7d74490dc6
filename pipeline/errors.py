"""The few errors a caller acts on."""


class MasklakeError(Exception):
    """Base of every domain error; `retryable` says whether the same call may succeed later."""

    retryable: bool = False


class ConfigError(MasklakeError, ValueError):
    """A job's configuration is wrong or does not fit the run it would resume."""


class ManifestError(MasklakeError, ValueError):
    """A manifest cannot be read as a whole, or rows of it are refused."""


class StorageError(MasklakeError):
    """A store refused or lost a read or write; another try may succeed."""

    retryable = True


class DecodeError(MasklakeError):
    """A video cannot be decoded: missing, truncated, empty, or not a video."""


class PromptError(MasklakeError, ValueError):
    """A prompt cannot be used: text too long, coordinates outside the frame, empty mask."""


class WeightsError(MasklakeError):
    """Weights cannot be found, verified or loaded."""


class SessionError(MasklakeError):
    """A session was used against its laws: frames out of order, or a step after its end."""


class EngineError(MasklakeError):
    """The engine stopped or failed while a session was running."""

    retryable = True


class CommitConflict(MasklakeError):
    """Another commit already settled this unit under other terms; this attempt lost."""


class CommitStateUnknown(MasklakeError):
    """The store did not say whether the commit was written; read it back before a retry."""

    retryable = True
