"""Files of a lake by path below its root, on a disk or in an object store: each seen whole or not at all."""

import builtins
import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, StorageError
from pipeline.io.retries import status_of, storage_error, with_retries
from pipeline.io.uris import LOCAL, absolute_uri, filesystem_of, split_uri

OBJECT_STORES = frozenset({"s3", "gs", "az", "abfs", "memory"})
"""Schemes whose PUT shows a file whole or not at all: those that can hold a lake, beside local paths."""

_TEMPORARY = ".masklake-tmp-"

# One PUT carries at most 5 GiB (S3's limit); s3fs would begin a multipart upload at 100 MB.
_ONE_PUT_BYTES = 4 * 2**30
_DELETING_THREADS = 16
_memory_lock = threading.Lock()


class MissingFile(StorageError, FileNotFoundError):
    """A file that was asked for by name is not there."""

    retryable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file: path relative to the store's root, size, and when it was last written (seconds since the epoch)."""

    path: str
    bytes: int
    modified_at: float


def open_store(root_uri: str | os.PathLike[str]) -> "Store":
    """The store below a root: a local path, `file://`, `s3://`, `gs://`, `memory://` (one process, for tests) ...

    Nothing is read, written or created.

    Raises:
        ConfigError: the URI is malformed, its scheme unknown, or the package that speaks it is not installed.
    """
    return Store(absolute_uri(root_uri))


class Store:
    """Files below one root. Paths are relative to it and '/'-separated; nothing is cached between calls.

    Every method repeats transient errors a bounded number of times, then raises StorageError naming the URI; a path
    that is empty, absolute or climbs out of the root is a ValueError. A store pickles as its URI.

    Attributes:
        root_uri: absolute: a local path, or `scheme://...`; no slash at the end.
    """

    def __init__(self, root_uri: str) -> None:
        self.root_uri = root_uri
        self._scheme, self._root = split_uri(root_uri)
        filesystem_of(self._scheme)  # a missing package is told now, not at the first write

    def __repr__(self) -> str:
        return f"Store({self.root_uri!r})"

    def __reduce__(self) -> tuple[Callable[[str], "Store"], tuple[str]]:
        return open_store, (self.root_uri,)

    @property
    def is_local(self) -> bool:
        return self._scheme == LOCAL

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem, for pyarrow and DuckDB to read with; see `full_path` and `uri`."""
        return filesystem_of(self._scheme)

    def full_path(self, path: str) -> str:
        """The path as `filesystem` takes it: absolute on a disk, `bucket/key` in a store."""
        return f"{self._root.rstrip('/')}/{_checked(path)}"

    def uri(self, path: str) -> str:
        """The path as a person or another program takes it: a local path, or `scheme://bucket/key`."""
        return f"{self.root_uri.rstrip('/')}/{_checked(path)}"

    def read_bytes(self, path: str) -> bytes:
        """The whole file. Raises MissingFile (a FileNotFoundError too) if it is not there."""
        try:
            return bytes(self._try("read", path, lambda: self._read(self.full_path(path))))
        except FileNotFoundError as error:
            raise MissingFile(f"{self.uri(path)}: no such file.") from error

    def write_whole(self, path: str, data: bytes) -> None:
        """Write a file that readers see whole or not at all, replacing what was there.

        Local: temporary file, fsync, rename, fsync of the directory. Object store: one PUT.
        """
        self._write(path, lambda full_path: self._put_or_rename(full_path, data))

    def write_if_absent(self, path: str, data: bytes) -> bool:
        """Write a file whole unless one is there; says whether the file is now this call's.

        Exclusive on local disks with hard links, in memory, on Google storage, and on S3 where `If-None-Match: *` is
        enforced (AWS, MinIO, Ceph, moto). Elsewhere two writers at the same instant may both be told True, the later
        one's bytes staying, so nothing may depend on exclusion for being correct. In an object store, a file that
        holds the very same bytes counts as this call's own (a PUT may arrive although its answer is lost): let the
        bytes name their writer.
        """
        try:
            return bool(self._write(path, lambda full_path: self._create(full_path, data)))
        except FileExistsError:
            return False

    def upload(self, local_file: str | os.PathLike[str], path: str) -> None:
        """Copy a local file into the store, where readers see it whole or not at all."""
        self._write(path, lambda full_path: self._upload(os.fspath(local_file), full_path))

    def list(self, prefix: str = "") -> "builtins.list[StoredFile]":
        """All files below a directory, sorted by path; none if it does not exist. Half-written files do not count.

        Raises:
            StorageError: the store cannot be read, or the bucket itself does not exist.
        """
        return [file for file in self._files_below(prefix) if _TEMPORARY not in file.path]

    def list_abandoned(self, prefix: str = "") -> "builtins.list[StoredFile]":
        """Half-written files below a directory: what a killed process left, or a living one is writing, on a disk."""
        return [file for file in self._files_below(prefix) if _TEMPORARY in file.path]

    def delete(self, paths: Iterable[str]) -> None:
        """Remove files; those that are not there count as removed."""
        self._check_writable()
        with ThreadPoolExecutor(1 if self.is_local else _DELETING_THREADS) as pool:
            for _ in pool.map(self._delete, paths):
                pass

    def exists(self, path: str) -> bool:
        """Whether a file (not a directory) is there now."""
        try:
            info = self._try("look up", path, lambda: self.filesystem.info(self.full_path(path)))
        except FileNotFoundError:
            return False
        return bool(info["type"] == "file")

    def _try(self, doing: str, path: str, action: Callable[[], Any]) -> Any:
        return with_retries(action, doing=doing, uri=self.uri(path))

    def _write(self, path: str, action: Callable[[str], Any]) -> Any:
        self._check_writable()
        try:
            return self._try("write", path, lambda: action(self.full_path(path)))
        except FileNotFoundError as error:  # the bucket, or the local file to upload
            raise storage_error(error, doing="write", uri=self.uri(path)) from error

    def _check_writable(self) -> None:
        if not self.is_local and self._scheme not in OBJECT_STORES:
            raise ConfigError(
                f"{self.root_uri}: cannot write to {self._scheme}://, where files may be seen half-written. "
                f"Expected a local path or one of {', '.join(sorted(OBJECT_STORES))}."
            )

    def _read(self, full_path: str) -> bytes:
        if self._scheme == "memory":
            with _memory_lock:  # fsspec hands all readers one file object with one position
                return bytes(self.filesystem.cat_file(full_path))
        # One GET: s3fs would ask for the size first, then fetch ranges, perhaps of two versions of the object.
        options = {"max_concurrency": 1} if self._scheme == "s3" else {}
        return bytes(self.filesystem.cat_file(full_path, **options))

    def _put_or_rename(self, full_path: str, data: bytes) -> None:
        if not self.is_local:
            self._put(full_path, data)
            return
        with _temporary_beside(full_path) as temporary:
            _write_through(temporary, data)
            os.replace(temporary, full_path)

    def _upload(self, local_file: str, full_path: str) -> None:
        if self._scheme == "memory":
            self._put(full_path, Path(local_file).read_bytes())
        elif not self.is_local:
            self.filesystem.put_file(local_file, full_path)
        else:
            with _temporary_beside(full_path) as temporary:
                shutil.copyfile(local_file, temporary)
                _sync(temporary)
                os.replace(temporary, full_path)

    def _put(self, full_path: str, data: bytes, **options: Any) -> None:
        if self._scheme == "s3" and len(data) < _ONE_PUT_BYTES:
            options["chunksize"] = len(data) + 1
        self.filesystem.pipe_file(full_path, data, **options)

    def _create(self, full_path: str, data: bytes) -> bool:
        if self.is_local:
            return _create_local(full_path, data)
        if self._scheme == "memory":
            with _memory_lock:
                self._put(full_path, data, mode="create")
            return True
        if self._scheme in ("s3", "gs"):
            return self._put_if_none_matches(full_path, data)
        return self._put_unless_seen(full_path, data)

    def _put_if_none_matches(self, full_path: str, data: bytes) -> bool:
        try:
            self._put(full_path, data, mode="create")
        except OSError as error:
            if isinstance(error, FileExistsError) or status_of(error) == 412:
                return self._read(full_path) == data
            if error.errno == errno.ENOSYS:  # a store that knows no conditional PUT
                return self._put_unless_seen(full_path, data)
            raise
        return True

    def _put_unless_seen(self, full_path: str, data: bytes) -> bool:
        if self.filesystem.exists(full_path):
            return self._read(full_path) == data
        self._put(full_path, data)
        return True

    def _files_below(self, prefix: str) -> "builtins.list[StoredFile]":
        directory, uri = self._root, self.root_uri
        if prefix.strip("/"):
            directory, uri = self.full_path(prefix.rstrip("/")), self.uri(prefix.rstrip("/"))
        find = _find_local if self.is_local else self._find
        infos = with_retries(lambda: find(directory), doing="list", uri=uri)
        below = len(self._root.rstrip("/")) + 1
        files = [
            StoredFile(path=name[below:], bytes=int(info["size"] or 0), modified_at=_modified_at(info))
            for name, info in infos.items()
            if info["type"] == "file" and name.startswith(directory.rstrip("/") + "/") and not name.endswith("/")
        ]
        return sorted(files, key=lambda file: file.path)

    def _find(self, directory: str) -> dict[str, dict[str, Any]]:
        try:
            return dict(self.filesystem.find(directory, detail=True))
        except FileNotFoundError as error:
            if self._scheme == "s3":  # s3fs says so of a bucket only; an absent directory is an empty listing
                raise storage_error(error, doing="list", uri=f"s3://{directory}") from error
            return {}

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._try("delete", path, lambda: self.filesystem.rm_file(self.full_path(path)))


def _checked(path: str) -> str:
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        raise ValueError(f"path {path!r}: expected names joined by '/', relative to the store's root.")
    return path


def _find_local(directory: str) -> dict[str, dict[str, Any]]:
    """Files below a local directory; those that vanish while it is read are not there."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    found: dict[str, dict[str, Any]] = {}
    for folder, _, names in os.walk(directory, onerror=refuse):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(FileNotFoundError):
                status = os.stat(path)
                found[path] = {"type": "file", "size": status.st_size, "mtime": status.st_mtime}
    return found


def _modified_at(info: dict[str, Any]) -> float:
    for key in ("LastModified", "mtime", "last_modified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str) and value:
            return datetime.fromisoformat(value).timestamp()
    return time.time()  # a store that keeps no times: never old enough to be collected as garbage


@contextmanager
def _temporary_beside(full_path: str) -> Iterator[str]:
    """A name in the same directory for what will be renamed to `full_path`; gone afterwards, the directory synced."""
    directory, name = os.path.split(full_path)
    _make_directory(directory)
    temporary = os.path.join(directory, f".{name[:100]}{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    _sync(directory)


def _create_local(full_path: str, data: bytes) -> bool:
    with _temporary_beside(full_path) as temporary:
        _write_through(temporary, data)
        try:
            os.link(temporary, full_path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            if os.path.exists(full_path):  # a disk without hard links
                return False
            os.replace(temporary, full_path)
    return True


def _write_through(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_directory(directory: str) -> None:
    """Make a directory and its parents, each of them on disk before anything is put into it."""
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    _make_directory(parent)
    with suppress(FileExistsError):
        os.mkdir(directory)
    _sync(parent)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
