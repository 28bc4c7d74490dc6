"""What a training tells: one log line every so many steps, and TensorBoard event files beside the checkpoints."""

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import ConfigError
from pipeline.io.storage import Store

logger = logging.getLogger(__name__)

FOLDER = "logs"


class TrainingLog:
    """Scalars of one training; only the first worker has one.

    Event files are written on this machine and copied to the store by `flush`, which may be an object store.

    Args:
        first_step: events of an earlier attempt from here on are void, as TensorBoard is told.

    Raises:
        ConfigError: tensorboard is not installed.
    """

    def __init__(self, store: Store, *, first_step: int, every: int, num_steps: int) -> None:
        self._store = store
        self._every = every
        self._num_steps = num_steps
        self._folder = tempfile.TemporaryDirectory(prefix="masklake-logs-")
        self._writer = _summary_writer(self._folder.name, first_step)
        self._last_time, self._last_step = time.monotonic(), first_step

    def step(self, step: int, scalars: Mapping[str, float]) -> None:
        """Note the scalars of a finished step, counted from 0."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        done = step + 1
        if done % self._every == 0 or done == self._num_steps:
            now = time.monotonic()
            seconds = (now - self._last_time) / max(1, done - self._last_step)
            self._last_time, self._last_step = now, done
            told = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
            logger.info("step %d of %d: %s, %.2f s/step", done, self._num_steps, told, seconds)

    def flush(self) -> None:
        """Bring the store's copy of the event files up to date."""
        self._writer.flush()
        for file in sorted(Path(self._folder.name).iterdir()):
            self._store.upload(file, f"{FOLDER}/{file.name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.flush()
        finally:
            self._writer.close()
            self._folder.cleanup()


def _summary_writer(folder: str, first_step: int) -> Any:
    # Imported here: it takes seconds, and whoever keeps no log does without it.
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"training logs need tensorboard: pip install 'masklake[train]' ({error}).") from error
    writer: Any = SummaryWriter(folder, purge_step=first_step)
    return writer
