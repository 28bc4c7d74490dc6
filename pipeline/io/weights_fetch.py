"""One weight file brought to this machine: the places it may be, in order, and what to do when it is in none."""

import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pipeline.errors import ConfigError, StorageError, WeightsError
from pipeline.io.retries import with_retries
from pipeline.io.uris import LOCAL, absolute_uri, filesystem_of, readable_uri, split_uri
from pipeline.io.weights_local import CHECKPOINT_SUFFIXES, SIDECAR, TOKENIZER_FILES
from pipeline.io.weights_pins import Pins, file_lock, hash_file
from pipeline.io.weights_registry import WeightFile

logger = logging.getLogger(__name__)

_HUB_FILE = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w.-]+))?/(?P<file>[\w./-]+)")
_HUB_REPOSITORY = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where weights may be looked for.

    Attributes:
        models_dir: $MASKLAKE_MODELS: files that somebody put there, as MODEL/FILE or FILE.
        cache_dir: what was downloaded, as MODEL/FILE, and the lock file.
        mirror: $MASKLAKE_MIRROR: URI of an institution's own copy, as MODEL/FILE or FILE.
        offline: ask no hub and no web server; the three above, and what the hub's own cache holds, still count.
    """

    models_dir: Path | None
    cache_dir: Path
    mirror: str | None
    offline: bool

    @property
    def pins(self) -> Pins:
        return Pins(self.cache_dir)


def find_places(
    *,
    offline: bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Places:
    """The places that the environment names: MASKLAKE_MODELS, MASKLAKE_CACHE, MASKLAKE_MIRROR, MASKLAKE_OFFLINE.

    Args:
        offline: None or False leave it to MASKLAKE_OFFLINE and HF_HUB_OFFLINE.
        cache_dir: None for $MASKLAKE_CACHE, else masklake/models in the user's cache directory.
    """
    env = os.environ if environment is None else environment
    models = env.get("MASKLAKE_MODELS")
    home = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "masklake" / "models"
    return Places(
        models_dir=Path(models).expanduser().absolute() if models else None,
        cache_dir=Path(cache_dir or env.get("MASKLAKE_CACHE") or home).expanduser().absolute(),
        mirror=absolute_uri(env["MASKLAKE_MIRROR"]) if env.get("MASKLAKE_MIRROR") else None,
        offline=bool(offline) or any(_is_set(env.get(name)) for name in ("MASKLAKE_OFFLINE", "HF_HUB_OFFLINE")),
    )


def find_local(model: str, file: WeightFile, places: Places) -> Path | None:
    """The file, if it is on this machine: shipped, put there, or downloaded before, by us or by the hub's client."""
    shipped = [Path(str(resources.files("pipeline") / url[8:])) for url in file.urls if url.startswith("package:")]
    put = [places.models_dir / model / file.name, places.models_dir / file.name] if places.models_dir else []
    for path in (*shipped, *put, cached_path(model, file, places)):
        if path.is_file():
            return path
    cached = (_hub_cached(url) for url in file.urls if url.startswith("hf:"))
    return next((path for path in cached if path is not None), None)


def cached_path(model: str, file: WeightFile, places: Places) -> Path:
    """Where a download of the file lies."""
    return places.cache_dir / model / file.name


def fetch(model: str, file: WeightFile, places: Places, *, expected_sha256: str | None) -> Path:
    """Bring a file that is not on this machine here, once however many processes ask for it.

    Raises:
        WeightsError: no place has it, or what came is not what was expected; says what was tried and where to put it.
    """
    target = cached_path(model, file, places)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"{target.parent}: cannot be written ({error}). Name another with MASKLAKE_CACHE."
        ) from error
    tried: list[str] = []
    with file_lock(target):
        if target.is_file():  # another process was faster
            return target
        for source, attempt in _attempts(model, file, places, target):
            try:
                return attempt(expected_sha256)
            except _NotThere as error:
                tried.append(f"{source}: {error}")
    raise WeightsError(_nowhere(model, file, places, tried))


def fetch_hub_repository(model: str, *, offline: bool) -> Path:
    """The folder of `hf:ORG/NAME[@REVISION]` in the hub client's cache: checkpoints, tokenizer and model card.

    Raises:
        WeightsError: no such repository, no answer, or offline and not in the cache.
    """
    matched = _HUB_REPOSITORY.fullmatch(model)
    if matched is None:
        raise WeightsError(f"{model}: expected hf:ORG/NAME or hf:ORG/NAME@REVISION.")
    try:
        import huggingface_hub

        folder = huggingface_hub.snapshot_download(
            matched["repository"],
            revision=matched["revision"],
            allow_patterns=[*(f"*{suffix}" for suffix in CHECKPOINT_SUFFIXES), SIDECAR, *TOKENIZER_FILES],
            local_files_only=offline,
        )
    except Exception as error:  # httpx's, the disk's and the client's own
        raise WeightsError(f"{model}: {_first_line(error)}") from error
    return Path(folder)


class _NotThere(Exception):
    """This place does not have the file; the next one may."""


_Attempt = Callable[[str | None], Path]


def _attempts(model: str, file: WeightFile, places: Places, target: Path) -> Iterator[tuple[str, _Attempt]]:
    """Places to fetch from in order, each as its name and what to call."""
    if places.mirror is not None:
        for relative in (f"{model}/{file.name}", file.name):
            uri = f"{places.mirror.rstrip('/')}/{relative}"
            yield uri, _downloader(uri, file, target)
    for url in file.urls:
        if url.startswith("hf:"):
            yield url, _hub_reader(url, offline=places.offline)
        elif url.startswith("gdrive:"):
            yield url, _by_hand(url, file)
        elif not url.startswith("package:"):
            yield readable_uri(url), _unless_offline(_downloader(url, file, target), places)


def _downloader(uri: str, file: WeightFile, target: Path) -> _Attempt:
    def download(expected_sha256: str | None) -> Path:
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        try:
            _copy(uri, temporary)
            _check(temporary, uri, file, expected_sha256)
            os.replace(temporary, target)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        return target

    return download


def _copy(uri: str, target: Path) -> None:
    scheme, path = split_uri(uri)
    name = readable_uri(uri)
    try:
        filesystem = filesystem_of(scheme)
        if scheme == LOCAL and not os.path.isfile(path):
            raise _NotThere("no such file")
        logger.info("fetching %s", name)
        with_retries(lambda: filesystem.get_file(path, os.fspath(target)), doing="fetch", uri=name)
    except FileNotFoundError as error:
        raise _NotThere("no such file") from error
    except (StorageError, ConfigError) as error:
        raise _NotThere(str(error)) from error


def _check(path: Path, source: str, file: WeightFile, expected_sha256: str | None) -> None:
    size = path.stat().st_size
    advice = "What came was deleted. Try again, or from another source."
    if file.bytes is not None and size != file.bytes:
        raise WeightsError(f"{readable_uri(source)}: {size} bytes came, expected {file.bytes}. {advice}")
    if expected_sha256 is not None and (sha256 := hash_file(path)) != expected_sha256:
        raise WeightsError(f"{readable_uri(source)}: sha256 {sha256}, expected {expected_sha256}. {advice}")


def _hub_reader(url: str, *, offline: bool) -> _Attempt:
    def read(expected_sha256: str | None) -> Path:
        if offline:
            raise _NotThere("not asked, since offline; it is not in the hub's cache")
        return _ask_hub(url, local_files_only=False)

    return read


def _hub_cached(url: str) -> Path | None:
    """The file, if the hub's own client has downloaded it before."""
    try:
        return _ask_hub(url, local_files_only=True)
    except _NotThere:
        return None


def _ask_hub(url: str, *, local_files_only: bool) -> Path:
    """A file through the hub's own client, which caches, locks, and shows files whole or not at all."""
    matched = _HUB_FILE.fullmatch(url)
    if matched is None:
        raise WeightsError(f"{url}: expected hf:ORG/NAME@REVISION/FILE.")
    try:
        import huggingface_hub
    except ImportError as error:
        raise _NotThere("needs the hub's client: pip install huggingface_hub") from error
    try:
        path = huggingface_hub.hf_hub_download(
            matched["repository"], matched["file"], revision=matched["revision"], local_files_only=local_files_only
        )
    except Exception as error:  # httpx's, the disk's and the client's own; all of them mean "not from here"
        raise _NotThere(_first_line(error)) from error
    return Path(path)


def _first_line(error: Exception) -> str:
    first_line, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first_line}"


def _by_hand(url: str, file: WeightFile) -> _Attempt:
    def refuse(expected_sha256: str | None) -> Path:
        raise _NotThere(
            "Google Drive gives large files to browsers only; download "
            f"https://drive.google.com/file/d/{url.removeprefix('gdrive:')}/view and save it as {file.name}"
        )

    return refuse


def _unless_offline(attempt: _Attempt, places: Places) -> _Attempt:
    def refuse(expected_sha256: str | None) -> Path:
        raise _NotThere("not asked, since offline")

    return refuse if places.offline else attempt


def _nowhere(model: str, file: WeightFile, places: Places, tried: list[str]) -> str:
    size = "size unknown" if file.bytes is None else f"{file.bytes} bytes"
    sha256 = "sha256 not pinned" if file.sha256 is None else f"sha256 {file.sha256}"
    models_dir = places.models_dir or Path("$MASKLAKE_MODELS")
    mirror = places.mirror or "$MASKLAKE_MIRROR"
    lines = [
        f"model {model}: {file.name} ({size}, {sha256}) is not on this machine"
        + (", and this machine is offline." if places.offline else " and could not be fetched."),
        *(f"  tried {line}" for line in tried),
        "Put it in one of these three places, or name its path instead of the model:",
        f"  {models_dir}/{model}/{file.name}",
        f"  {cached_path(model, file, places)}",
        f"  {mirror.rstrip('/')}/{model}/{file.name}",
    ]
    return "\n".join(lines)


def _is_set(value: str | None) -> bool:
    return (value or "").strip().lower() not in ("", "0", "false", "no", "off")
