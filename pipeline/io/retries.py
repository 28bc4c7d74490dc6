"""Which storage errors may pass by themselves, and the bounded tries that they are given."""

import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from pipeline.errors import MasklakeError, StorageError

Result = TypeVar("Result")

RETRY_DELAYS_SECONDS: tuple[float, ...] = (0.2, 1.0, 4.0)
"""Waits before the second, third and fourth try; each is lengthened at random by up to half, to spread a herd."""

_FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)

_PASSING_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EBUSY", "EINTR", "ESTALE", "EREMOTEIO", "ETIMEDOUT", "ENETDOWN", "ENETUNREACH", "EHOSTUNREACH"),
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE"),
    )
    if hasattr(errno, name)
)

# By module and name: neither botocore nor aiohttp need be installed. Both raise these beside, not below, OSError.
_PASSING_NAMES = frozenset(
    {
        *("aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError", "aiohttp.ServerDisconnectedError"),
        *("botocore.ConnectionError", "botocore.HTTPClientError", "botocore.ResponseParserError"),
        *("botocore.IncompleteReadError", "http.IncompleteRead", "urllib3.HTTPError", "requests.ConnectionError"),
        *("requests.ChunkedEncodingError", "gcsfs.HttpError"),
    }
)

_STORE_PACKAGES = frozenset(
    {"aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "http", "requests", "s3fs", "urllib3"}
)

_PASSING_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})


def with_retries(action: Callable[[], Result], *, doing: str, uri: str) -> Result:
    """Call `action` until it succeeds, fails for good, or has failed len(RETRY_DELAYS_SECONDS) + 1 times.

    Args:
        action: safe to repeat.
        doing: what is being done, for the message: "read", "write", "list", ...
        uri: where.

    Raises:
        StorageError: tried in vain; `retryable` says whether a later call may succeed.
        FileNotFoundError, FileExistsError: as the store raised them; only the caller knows whether they matter.
    """
    delays = iter(RETRY_DELAYS_SECONDS)
    while True:
        try:
            return action()
        except (FileNotFoundError, FileExistsError, MasklakeError):
            raise
        except Exception as error:
            if not _comes_from_store(error):
                raise
            delay = next(delays, None) if is_transient(error) else None
            if delay is None:
                raise storage_error(error, doing=doing, uri=uri) from error
            time.sleep(delay * random.uniform(1.0, 1.5))


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later without anybody's help."""
    return any(_passes_by_itself(cause) for cause in _causes(error)) and not isinstance(error, _FINAL)


def storage_error(error: BaseException, *, doing: str, uri: str) -> StorageError:
    """What a caller is told of a store's failure: where, what came, what to do."""
    transient = is_transient(error)
    told = StorageError(f"cannot {doing} {uri}: {type(error).__name__}: {error}. {_advice(error, transient)}")
    told.retryable = transient or (isinstance(error, OSError) and error.errno == errno.ENOSPC)
    return told


def status_of(error: BaseException) -> int | None:
    """The HTTP status that a store answered with, where its client library passes it on."""
    return next((status for cause in _causes(error) if (status := _own_status(cause)) is not None), None)


def _advice(error: BaseException, transient: bool) -> str:
    if transient:
        return f"Gave up after {len(RETRY_DELAYS_SECONDS) + 1} tries; the store may answer later."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "The disk is full; make room and run again."
    if isinstance(error, PermissionError) or "redential" in type(error).__name__:
        return "Check the credentials (the store's usual environment variables, profile or role) and their rights."
    if isinstance(error, FileNotFoundError):
        return "Check the name; a bucket must exist before it is used."
    return "Another try would end alike; check the URI and the store's settings."


def _comes_from_store(error: BaseException) -> bool:
    """Not a mistake of our own, such as a TypeError, which must not be dressed up as a store's failure."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _STORE_PACKAGES


def _passes_by_itself(error: BaseException) -> bool:
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNOS:
        return True
    status = _own_status(error)
    if status is not None:
        return status in _PASSING_STATUS
    return not _PASSING_NAMES.isdisjoint(_names(type(error)))


def _own_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", getattr(error, "code", None))
    return status if isinstance(status, int) else None


def _names(kind: type) -> set[str]:
    return {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in kind.__mro__}


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(5):
        if current is None:
            return
        yield current
        current = current.__cause__
