"""Videos and folders of frames made readable: where they are, downloaded to scratch, or by ranges."""

import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pipeline.errors import ConfigError, DecodeError, StorageError
from pipeline.io.retries import with_retries
from pipeline.io.uris import LOCAL, filesystem_of, name_of, readable_uri, split_uri

Access = Literal["whole", "ranges"]

MAX_SCRATCH_BYTES = 4 * 2**30
"""What one input may take of the scratch disk, unless the caller says otherwise."""

# Measured on a 2 MB mp4 behind 20 ms per request: blocks of 1 MB took 3 requests for the whole and 2 for a clip;
# the default read-ahead fetched everything for the clip.
_BLOCK_BYTES = 2**20
_MAX_BLOCKS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class InputHandle:
    """An input that can be read now; exactly one of `local_path` and `file` is there.

    Attributes:
        name: for messages; the URI without its secrets.
        local_path: a file, or a directory of frames.
        file: binary, seekable, read in blocks over the network.
        bytes: size; for a directory the sum over the files directly in it. None when the server does not say.
        etag: what the store says of the version, for a local file from its time and size; None when it says nothing.
    """

    name: str
    local_path: Path | None
    file: BinaryIO | None
    bytes: int | None
    etag: str | None


@contextmanager
def open_input(
    uri: str,
    *,
    access: Access = "whole",
    scratch_dir: str | os.PathLike[str] | None = None,
    max_scratch_bytes: int = MAX_SCRATCH_BYTES,
) -> Iterator[InputHandle]:
    """Open a video or a directory of frames; what was downloaded is deleted on leaving.

    Local inputs are used where they lie. Of remote ones, directories, and videos wanted whole, are downloaded; a
    video larger than `max_scratch_bytes`, or of which only a clip is wanted, is read by ranges.

    Args:
        uri: absolute, as the manifest reader makes it.
        access: "whole" for a pass from end to end, "ranges" for a clip of a long video.
        scratch_dir: where downloads go; None for the system's temporary directory.

    Raises:
        DecodeError: not there, no permission, neither file nor directory, or too large a directory.
        StorageError: the store failed; another try may succeed.
    """
    scheme, path = split_uri(uri)
    name = readable_uri(uri)
    if scheme == LOCAL:
        yield _local_handle(Path(path), name)
        return
    info, filesystem = _remote_info(scheme, path, name)
    if info["type"] == "directory":
        with _scratch(scratch_dir) as folder:
            yield _download_directory(filesystem, path, name, folder, max_scratch_bytes)
    elif _must_download(info, access, max_scratch_bytes) or not _takes_ranges(filesystem, scheme, path, name):
        with _scratch(scratch_dir) as folder:
            yield _download_file(filesystem, path, name, info, folder / _safe_name(uri), max_scratch_bytes)
    else:
        with _open_ranges(filesystem, scheme, path, name) as file:
            yield InputHandle(name=name, local_path=None, file=file, bytes=int(info["size"]), etag=_etag(info))


def input_bytes(uri: str) -> int | None:
    """Size of an input without reading it, for plans; None when the server does not say.

    Raises:
        DecodeError, StorageError: as `open_input`.
    """
    scheme, path = split_uri(uri)
    name = readable_uri(uri)
    if scheme == LOCAL:
        return _local_handle(Path(path), name).bytes
    info, filesystem = _remote_info(scheme, path, name)
    if info["type"] == "directory":
        return sum(int(frame["size"] or 0) for frame in _frames(filesystem, path, name))
    return None if info.get("size") is None else int(info["size"])


def _local_handle(path: Path, name: str) -> InputHandle:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                frames = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if e.is_file())
            size, etag = sum(frame[1] for frame in frames), _digest(frames)
        elif stat.S_ISREG(status.st_mode):
            path.open("rb").close()
            size, etag = status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}"
        else:
            raise DecodeError(f"{name}: neither a file nor a directory. Give a video file or a directory of frames.")
    except OSError as error:
        raise _cannot_open(name, error) from error
    return InputHandle(name=name, local_path=path, file=None, bytes=size, etag=etag)


def _remote_info(scheme: str, path: str, name: str) -> tuple[dict[str, Any], Any]:
    try:
        filesystem = filesystem_of(scheme)
    except ConfigError as error:
        raise DecodeError(f"{name}: {error}") from error
    try:
        return with_retries(lambda: dict(filesystem.info(path)), doing="open", uri=name), filesystem
    except FileNotFoundError as error:
        raise _cannot_open(name, error) from error
    except StorageError as error:
        if isinstance(error.__cause__, PermissionError):
            raise _cannot_open(name, error.__cause__) from error
        raise


def _cannot_open(name: str, error: OSError) -> DecodeError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return DecodeError(f"{name}: no such file or directory. Correct the manifest's video_uri, or put it there.")
    if isinstance(error, PermissionError):
        return DecodeError(
            f"{name}: permission denied ({error}). Grant this user, or these credentials, the right to read it."
        )
    return DecodeError(f"{name}: cannot be opened ({type(error).__name__}: {error}).")


def _must_download(info: Mapping[str, Any], access: Access, max_bytes: int) -> bool:
    return info.get("size") is None or (access == "whole" and int(info["size"]) <= max_bytes)


def _takes_ranges(filesystem: Any, scheme: str, path: str, name: str) -> bool:
    """Whether a server gives a part of a file when asked for it; stores always do, web servers may not."""
    if scheme not in ("http", "https"):
        return True
    with _open_ranges(filesystem, scheme, path, name) as file:
        try:
            file.seek(-1, io.SEEK_END)
            file.read(1)
        except ValueError:  # how fsspec says that the whole came instead
            return False
    return True


def _download_file(
    filesystem: Any, path: str, name: str, info: Mapping[str, Any], target: Path, max_bytes: int
) -> InputHandle:
    expected = None if info.get("size") is None else int(info["size"])
    if expected is not None and expected > max_bytes:
        raise DecodeError(
            f"{name}: {expected} bytes, more than the {max_bytes} allowed on the scratch disk, and the server does not "
            "serve ranges. Allow more scratch space, or serve the video with ranges."
        )

    def download() -> None:
        if expected is None:
            _download_stream(filesystem, path, name, target, max_bytes)
        else:
            filesystem.get_file(path, os.fspath(target))

    try:
        with_retries(download, doing="download", uri=name)
    except FileNotFoundError as error:  # deleted since it was looked up
        raise _cannot_open(name, error) from error
    size = target.stat().st_size
    if expected is not None and size != expected:
        raise StorageError(f"{name}: downloaded {size} bytes of {expected}; it changed meanwhile. Run the unit again.")
    return InputHandle(name=name, local_path=target, file=None, bytes=size, etag=_etag(info))


def _download_stream(filesystem: Any, path: str, name: str, target: Path, max_bytes: int) -> None:
    """Download what a server sends without telling its size."""
    with filesystem.open(path, "rb", block_size=0) as source, target.open("wb") as file:
        while block := source.read(_BLOCK_BYTES):
            if file.tell() + len(block) > max_bytes:
                raise DecodeError(
                    f"{name}: the server tells no size, and more than {max_bytes} bytes came. "
                    "Allow more scratch space, or serve the video with Content-Length and ranges."
                )
            file.write(block)


def _frames(filesystem: Any, path: str, name: str) -> list[dict[str, Any]]:
    """The files directly in a remote directory, by name."""
    entries = with_retries(lambda: filesystem.ls(path, detail=True), doing="list", uri=name)
    found = [entry for entry in entries if entry["type"] == "file" and entry["name"].rstrip("/") != path.rstrip("/")]
    return sorted(found, key=lambda entry: str(entry["name"]))


def _download_directory(filesystem: Any, path: str, name: str, folder: Path, max_bytes: int) -> InputHandle:
    frames = _frames(filesystem, path, name)
    size = sum(int(frame["size"] or 0) for frame in frames)
    if size > max_bytes:
        raise DecodeError(
            f"{name}: a directory of {size} bytes, more than the {max_bytes} allowed on the scratch disk. "
            "Allow more scratch space, or encode the frames as a video."
        )
    sources = [str(frame["name"]) for frame in frames]
    targets = [os.fspath(folder / source.rpartition("/")[2]) for source in sources]
    if sources:
        with_retries(lambda: filesystem.get(sources, targets), doing="download", uri=name)
    for frame, target in zip(frames, targets, strict=True):
        if not os.path.isfile(target) or os.path.getsize(target) != frame["size"]:
            raise StorageError(f"{frame['name']}: downloaded in part; it changed meanwhile. Run the unit again.")
    etag = _digest(
        [(target.rpartition("/")[2], f["size"], _etag(f)) for f, target in zip(frames, targets, strict=True)]
    )
    return InputHandle(name=name, local_path=folder, file=None, bytes=size, etag=etag)


@contextmanager
def _open_ranges(filesystem: Any, scheme: str, path: str, name: str) -> Iterator[BinaryIO]:
    if scheme == "memory":  # its file objects share one position
        yield io.BytesIO(filesystem.cat_file(path))
        return
    options = {"block_size": _BLOCK_BYTES, "cache_type": "blockcache", "cache_options": {"maxblocks": _MAX_BLOCKS}}
    with with_retries(lambda: filesystem.open(path, "rb", **options), doing="open", uri=name) as file:
        yield file


@contextmanager
def _scratch(scratch_dir: str | os.PathLike[str] | None) -> Iterator[Path]:
    if scratch_dir is not None:
        os.makedirs(scratch_dir, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="masklake-input-", dir=scratch_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _safe_name(uri: str) -> str:
    """The file's own name, since readers may go by the suffix; without what a disk would refuse."""
    name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name_of(uri))
    return name[-100:].lstrip(".") or "input"


def _etag(info: Mapping[str, Any]) -> str | None:
    for key in ("ETag", "etag", "md5Hash"):
        if isinstance(info.get(key), str) and info[key]:
            return str(info[key]).strip('"')
    return None


def _digest(frames: list[Any]) -> str:
    return hashlib.sha256(repr(frames).encode("utf-8", "surrogateescape")).hexdigest()[:32]
