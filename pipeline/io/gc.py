"""Garbage: staged files that no commit names, left by attempts that died or came second; found and removed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.io.commit_log import read_commits
from pipeline.io.parts import DATA
from pipeline.io.storage import Store, StoredFile

_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageReport:
    """What a collection found.

    Attributes:
        garbage: files in no commit, older than the grace period, or half-written ones as old.
        removed: whether they were removed.
        num_kept: files that commits name.
        num_young: files in no commit that are too young to judge: a running attempt may still commit them.
    """

    root_uri: str
    garbage: tuple[StoredFile, ...]
    removed: bool
    num_kept: int
    num_young: int

    @property
    def garbage_bytes(self) -> int:
        return sum(file.bytes for file in self.garbage)

    def render(self) -> str:
        """The report for a terminal."""
        verb = "removed" if self.removed else "could be removed"
        lines = [
            f"{self.root_uri}: {len(self.garbage)} files in no commit {verb} ({self.garbage_bytes:,} bytes); "
            f"{self.num_kept} committed, {self.num_young} too young to judge"
        ]
        lines += [f"  {file.path}  {file.bytes:,} bytes" for file in self.garbage[:_SHOWN]]
        if len(self.garbage) > _SHOWN:
            lines.append(f"  ... and {len(self.garbage) - _SHOWN} more")
        return "\n".join(lines)


def collect_garbage(
    store: Store, *, grace_seconds: float, dry_run: bool, clock: Callable[[], float] = time.time
) -> GarbageReport:
    """Find, and unless `dry_run` remove, parts of every run that no commit names.

    A part that any commit names stays, also when another commit hides all its rows.

    Args:
        grace_seconds: leave files younger than this alone; longer than the longest unit takes from its first part to
            its commit.
        clock: seconds since the epoch, as the store's own clock tells them.

    Raises:
        StorageError: the files or commits cannot be read; nothing was removed.
    """
    # The files before the commits: a part that is committed in between is then seen as committed.
    files = store.list(DATA)
    abandoned = store.list_abandoned(DATA)
    named = {part.path for run_id in _runs_of(files) for commit in read_commits(store, run_id) for part in commit.parts}
    loose = [file for file in files if file.path not in named]
    oldest_kept = clock() - grace_seconds
    garbage = tuple(file for file in (*loose, *abandoned) if file.modified_at < oldest_kept)
    if not dry_run:
        store.delete(file.path for file in garbage)
    return GarbageReport(
        root_uri=store.root_uri,
        garbage=garbage,
        removed=not dry_run,
        num_kept=len(files) - len(loose),
        num_young=len(loose) + len(abandoned) - len(garbage),
    )


def _runs_of(files: list[StoredFile]) -> list[str]:
    """Runs that the parts `data/<table>/run=R/...` belong to."""
    folders = (file.path.split("/")[2] for file in files if file.path.count("/") > 2)
    return sorted({folder.removeprefix("run=") for folder in folders if folder.startswith("run=")})
