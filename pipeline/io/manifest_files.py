"""Raw rows of a manifest file, whichever way it is encoded: line number and columns, or why a line cannot be read."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ManifestError, StorageError
from pipeline.io.manifest_rows import RowProblem
from pipeline.io.nearest_name import did_you_mean
from pipeline.io.retries import storage_error, with_retries
from pipeline.io.uris import filesystem_of, readable_uri, split_uri
from schemas.manifest import MANIFEST_COLUMNS

RawRow = tuple[int, Mapping[str, Any]] | RowProblem
"""Line and columns; or what makes the line unreadable."""

_NESTED_IN_TEXT = ("expressions", "prompts", "modalities", "modality_order", "crop", "tags")
_ROWS_PER_BATCH = 4096

# A mask prompt in a cell is longer than csv's default limit of 128 KiB.
_MAX_CELL_BYTES = 2**26


class ManifestFile:
    """A manifest opened for one pass.

    Attributes:
        rows: in order; errors of the file as a whole (encoding, quoting, header) are raised on the way.
    """

    def __init__(self, rows: Iterator[RawRow], digest: "hashlib._Hash") -> None:
        self.rows = rows
        self._digest = digest

    def digest(self) -> str:
        """32 hex digits of the bytes read; of the whole file once `rows` is exhausted."""
        return self._digest.hexdigest()[:32]


@contextmanager
def open_manifest(uri: str) -> Iterator[ManifestFile]:
    """Open a manifest by its suffix: .jsonl, .ndjson, .csv or .parquet.

    Raises:
        ManifestError: another suffix, no such file, not a file, or (later, from `rows`) unreadable as a whole.
        StorageError: the store failed; another try may succeed.
    """
    name = readable_uri(uri)
    suffix = os.path.splitext(name.rstrip("/"))[1].lower()
    if suffix not in _READERS:
        raise ManifestError(f"{name}: {_why_unsupported(uri, suffix)}")
    with _open(uri, name) as file:
        digest = hashlib.sha256()
        yield ManifestFile(_READERS[suffix](file, name, digest), digest)


def _why_unsupported(uri: str, suffix: str) -> str:
    expected = f"Expected a manifest file: {', '.join(sorted(_READERS))}, one row per video."
    if any(letter in uri for letter in "*?["):
        return f"a pattern is not a manifest. {expected} List the videos it stands for."
    if os.path.isdir(uri) or uri.endswith("/"):
        return f"a directory is not a manifest. {expected} List the videos in it."
    return f"unsupported suffix {suffix!r}. {expected}"


@contextmanager
def _open(uri: str, name: str) -> Iterator[BinaryIO]:
    scheme, path = split_uri(uri)
    filesystem = filesystem_of(scheme)
    try:
        info = with_retries(lambda: filesystem.info(path), doing="read", uri=name)
        if info["type"] == "directory":
            raise ManifestError(f"{name}: a directory is not a manifest. Expected a file with one row per video.")
        file = with_retries(lambda: filesystem.open(path, "rb"), doing="read", uri=name)
    except FileNotFoundError as error:
        raise ManifestError(f"{name}: no such file. Check --manifest.") from error
    except StorageError as error:
        if error.retryable:
            raise
        raise ManifestError(str(error)) from error
    try:
        with file:
            yield file
    except OSError as error:  # lost in the middle of the file
        raise storage_error(error, doing="read", uri=name) from error


def _text_lines(file: BinaryIO, name: str, digest: "hashlib._Hash") -> Iterator[str]:
    """Lines with their ends, decoded one by one, so that an encoding error can be told by line and byte."""
    offset = 0
    for number, line in enumerate(file, start=1):
        digest.update(line)
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ManifestError(f"{name}: is UTF-16. Save it as UTF-8.")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            at = offset + error.start + (3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0)
            raise ManifestError(
                f"{name}, line {number}: byte {at} of the file is not UTF-8 (0x{error.object[error.start]:02x}). "
                "Save the manifest as UTF-8."
            ) from error
        offset += len(line)


def _read_jsonl(file: BinaryIO, name: str, digest: "hashlib._Hash") -> Iterator[RawRow]:
    for number, line in enumerate(_text_lines(file, name, digest), start=1):
        if not line.strip():
            continue
        try:
            row = _parse_json(line)
        except ValueError as error:
            yield RowProblem(line=number, column=None, reason=f"not JSON: {error}.")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            reason = f"a JSON {type(row).__name__}, expected an object with a row's columns."
            yield RowProblem(line=number, column=None, reason=reason)


def _read_csv(file: BinaryIO, name: str, digest: "hashlib._Hash") -> Iterator[RawRow]:
    csv.field_size_limit(_MAX_CELL_BYTES)
    reader = csv.reader(_text_lines(file, name, digest), strict=True)
    header: list[str] | None = None
    last_line = 0
    try:
        for cells in reader:
            line, last_line = last_line + 1, reader.line_num
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                _check_header(header, name)
            else:
                yield _csv_row(header, cells, line)
    except csv.Error as error:
        raise ManifestError(
            f"{name}, line {last_line + 1}: not CSV: {error}. "
            'Put cells with commas, quotes or line breaks between double quotes, and double each quote inside ("").'
        ) from error


def _csv_row(header: Sequence[str], cells: Sequence[str], line: int) -> RawRow:
    if len(cells) != len(header):
        reason = f"{len(cells)} cells, but the header has {len(header)}; a cell with a comma needs double quotes."
        return RowProblem(line=line, column=None, reason=reason)
    return _decode_texts({column: cell for column, cell in zip(header, cells, strict=True) if cell.strip()}, line)


def _read_parquet(file: BinaryIO, name: str, digest: "hashlib._Hash") -> Iterator[RawRow]:
    content = file.read()
    digest.update(content)
    try:
        parquet = pq.ParquetFile(io.BytesIO(content))
        _check_header(parquet.schema_arrow.names, name)
        number = 0
        for batch in parquet.iter_batches(batch_size=_ROWS_PER_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield _decode_texts(row, number)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{name}: not a Parquet file that can be read: {error}.") from error


def _decode_texts(row: dict[str, Any], line: int) -> RawRow:
    """Nested columns written as text, as CSV must and Parquet may."""
    for column in _NESTED_IN_TEXT:
        text = row.get(column)
        if not isinstance(text, str):
            continue
        if column == "expressions" and not text.lstrip().startswith("["):
            row[column] = [part.strip() for part in text.split("|")]
            continue
        try:
            row[column] = _parse_json(text)
        except ValueError as error:
            video_id, video_uri = row.get("video_id"), row.get("video_uri")
            reason = f"{text[:60]!r} is not JSON: {error}."
            return RowProblem(line=line, column=column, reason=reason, video_id=video_id, video_uri=video_uri)
    return line, row


def _check_header(header: Sequence[str], name: str) -> None:
    problems = [
        f"unknown column {column!r}. {did_you_mean(column, MANIFEST_COLUMNS)}"
        for column in header
        if column not in MANIFEST_COLUMNS
    ]
    problems += [f"column {column!r} is there twice." for column in sorted({c for c in header if header.count(c) > 1})]
    if "video_uri" not in header:
        problems.append("no column video_uri, the only one that must be there.")
    if problems:
        raise ManifestError("\n".join(f"{name}: {problem}" for problem in problems))


def _parse_json(text: str) -> Any:
    """A JSON value; what json takes beyond the standard is refused: NaN, Infinity, a key twice."""
    return _DECODER.decode(text.strip())


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)

_READERS: dict[str, Callable[[BinaryIO, str, "hashlib._Hash"], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
