"""Runs a batch that was chosen elsewhere; when it fails, finds the session at fault and lets the others go on."""

import gc
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pipeline.errors import EngineError
from pipeline.segmenter import Segmenter, Session

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
"""As CUDA, PyTorch's CPU allocator, cuBLAS and cuDNN put it, where the class does not tell."""


class DeviceMemoryError(EngineError):
    """The device has no room for one video's next batch, even alone and after its cache was emptied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutcome:
    """How a batch ended.

    Attributes:
        errors: session_id to what ended it; sessions that are not in it have done their work.
        device_seconds: session_id to its share of the time in `Segmenter.run`, by rows. Measured on the host: time
            that a kernel still runs after `run` returned counts for the next batch.
    """

    errors: Mapping[int, Exception]
    device_seconds: Mapping[int, float]


def run_batch(
    segmenter: Segmenter,
    stage: str,
    sessions: Mapping[int, Session],
    rows: Mapping[int, int],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> BatchOutcome:
    """Run one batch; if it raises, run each of its sessions alone, so that only those at fault fail.

    Out of memory: the device's cache is emptied and the session is run alone once more before it fails.

    Args:
        sessions: session_id to session.
        rows: session_id to the places it takes.

    Raises:
        EngineError: the device itself no longer answers.
    """
    started = clock()
    error = _try_run(segmenter, stage, list(sessions.values()))
    errors: dict[int, Exception] = {}
    if error is None:
        seconds = clock() - started
        total = sum(rows[session_id] for session_id in sessions)
        return BatchOutcome(errors=errors, device_seconds={i: seconds * rows[i] / total for i in sessions})
    if len(sessions) > 1:
        logger.warning("stage %s: %s; running its %d sessions one by one", stage, _told(error), len(sessions))
    shares: dict[int, float] = {}
    for session_id, session in sessions.items():
        started = clock()
        alone = _run_alone(segmenter, stage, session, error if len(sessions) == 1 else None)
        shares[session_id] = clock() - started
        if alone is not None:
            errors[session_id] = alone
    return BatchOutcome(errors=errors, device_seconds=shares)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error tells that host or device memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | DeviceMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_MESSAGES)


def let_go_of_frames(error: BaseException) -> None:
    """Clear the local variables that an error's traceback keeps alive, tensors among them."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        traceback.clear_frames(link.__traceback__)
        seen.append(link)
        link = link.__cause__ or link.__context__


def _run_alone(segmenter: Segmenter, stage: str, session: Session, failed_with: Exception | None) -> Exception | None:
    """Run one session; `failed_with` is what it has already raised alone, if it has."""
    error = failed_with or _try_run(segmenter, stage, [session])
    if error is None or not is_out_of_memory(error):
        return error
    error = _try_run(segmenter, stage, [session])
    if error is None or not is_out_of_memory(error):
        return error
    return DeviceMemoryError(
        f"stage {stage}: {_told(error)}, alone and for the second time. "
        "Run fewer videos at once on this device, or ask for fewer objects or a smaller max_side."
    )


def _try_run(segmenter: Segmenter, stage: str, sessions: list[Session]) -> Exception | None:
    try:
        segmenter.run(stage, sessions)
        return None
    except Exception as error:
        failure = error
        logger.debug("stage %s failed", stage, exc_info=True)
    let_go_of_frames(failure)
    if is_out_of_memory(failure):
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
    _check_device(failure)
    return failure


def _check_device(failure: Exception) -> None:
    """Raise if the device is lost: after an illegal access or a failed assertion every later CUDA call fails too."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    try:
        torch.cuda.synchronize()
    except Exception as error:
        raise EngineError(
            f"the device no longer answers ({_told(error)}), first seen as {_told(failure)}. Restart this process; "
            "videos that were running can be tried again."
        ) from failure


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
