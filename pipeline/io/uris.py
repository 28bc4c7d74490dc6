"""URIs: made absolute, taken apart, and the fsspec filesystem that speaks each scheme."""

import functools
import importlib
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import fsspec

from pipeline.errors import ConfigError

LOCAL = "file"

_SYNONYMS = {"local": LOCAL, "s3a": "s3", "gcs": "gs", "abfss": "abfs"}
_PACKAGES = {
    "s3": ("s3fs", "pip install 'masklake[s3]'"),
    "gs": ("gcsfs", "pip install gcsfs"),
    "az": ("adlfs", "pip install adlfs"),
    "abfs": ("adlfs", "pip install adlfs"),
    "http": ("aiohttp", "pip install aiohttp"),
    "https": ("aiohttp", "pip install aiohttp"),
    "hf": ("huggingface_hub", "pip install huggingface_hub"),
}
KNOWN_SCHEMES = frozenset({LOCAL, "memory", *_PACKAGES})
"""Schemes that an input or a lake may be named by, local paths included; others are spelling mistakes."""

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_ONE_SLASH = re.compile(r"(?P<scheme>s3a?|gs|gcs|az|abfss?|https?|memory|file):/?(?!/)")


def absolute_uri(uri: str | os.PathLike[str], *, base: str | None = None) -> str:
    """The URI with nothing left to the place it is read from: a local path from `/` on, or `scheme://...`.

    Args:
        uri: a local path, `file://...`, or `scheme://...`.
        base: URI of the directory that a relative path starts from; None for the working directory.

    Raises:
        ConfigError: empty, or malformed.
    """
    text = os.fspath(uri)
    if not text.strip() or "\0" in text:
        raise ConfigError(f"URI {text!r}: expected a local path or scheme://bucket/key.")
    matched = _SCHEME.fullmatch(text)
    if matched is None:
        return _absolute_path(text, base)
    scheme = _canonical(matched["scheme"])
    rest = matched["rest"] if scheme in ("http", "https") else matched["rest"].rstrip("/")
    if scheme == LOCAL:
        return _local_path(text, matched["rest"])
    if not rest.strip("/"):
        raise ConfigError(f"URI {text!r}: names no bucket or host. Expected {scheme}://bucket/key.")
    return f"{scheme}://{rest}"


def split_uri(uri: str) -> tuple[str, str]:
    """Scheme and the path as that scheme's filesystem takes it, of an absolute URI; ("file", path) for a local path."""
    matched = _SCHEME.fullmatch(uri)
    if matched is None:
        return LOCAL, uri
    scheme = _canonical(matched["scheme"])
    if scheme in ("http", "https"):
        return scheme, uri
    return scheme, "/" + matched["rest"].strip("/") if scheme == "memory" else matched["rest"]


def parent_uri(uri: str) -> str:
    """The directory that holds an absolute URI."""
    scheme, path = split_uri(uri)
    if scheme == LOCAL:
        return os.path.dirname(path)
    if scheme in ("http", "https"):
        uri = urlsplit(uri)._replace(query="", fragment="").geturl()
    head, _, tail = uri.rpartition("/")
    return head if tail and not head.endswith("/") else uri


def name_of(uri: str) -> str:
    """The last part of a URI's path, without the query of a http URL: "clip.mp4" of "s3://b/v/clip.mp4"."""
    scheme, path = split_uri(uri)
    if scheme in ("http", "https"):
        path = urlsplit(uri).path
    return path.rstrip("/").rpartition("/")[2]


def readable_uri(uri: str) -> str:
    """The URI for messages: of a http URL neither user and password nor the query, which may hold a signature."""
    scheme, _ = split_uri(uri)
    if scheme not in ("http", "https"):
        return uri
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def filesystem_of(scheme: str) -> Any:
    """The fsspec filesystem of a scheme, shared by all threads of this process; listings are never cached.

    Raises:
        ConfigError: unknown scheme, or the package that speaks it is not installed.
    """
    return _filesystem(_canonical(scheme), os.getpid(), tuple(sorted(_endpoint_options(_canonical(scheme)).items())))


# Keyed by process, since connections do not survive a fork, and by what the environment says now. fsspec's own
# cache is keyed by thread as well: every decoding thread would open a client of its own.
@functools.lru_cache(maxsize=32)
def _filesystem(scheme: str, process: int, endpoint: tuple[tuple[str, str], ...]) -> Any:
    package, remedy = _PACKAGES.get(scheme, (None, ""))
    try:
        if package is not None:
            importlib.import_module(package)
        return fsspec.filesystem(scheme, skip_instance_cache=scheme != "memory", **_options(scheme, dict(endpoint)))
    except ImportError as error:
        raise ConfigError(f"{scheme}:// needs a package that is not installed ({error}): {remedy}.") from error
    except ValueError as error:
        known = ", ".join(sorted(KNOWN_SCHEMES))
        raise ConfigError(f"{scheme}:// is not a known scheme ({error}). Expected one of {known}.") from error


def _options(scheme: str, endpoint: Mapping[str, str]) -> dict[str, Any]:
    if scheme != "s3":
        return {} if scheme in (LOCAL, "memory") else {"use_listings_cache": False}
    options: dict[str, Any] = {"use_listings_cache": False, "default_block_size": 5 * 2**20, **endpoint}
    if endpoint and "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ:
        # botocore's default trailing checksums make Ceph and rclone answer 411 and s3rver store the chunk framing.
        options["config_kwargs"] = {
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
    return options


def _endpoint_options(scheme: str) -> dict[str, str]:
    """`endpoint_url` where S3 is not Amazon's; from the environment or fsspec's configuration."""
    if scheme != "s3":
        return {}
    configured = fsspec.config.conf.get("s3", {})
    found = (
        configured.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    if not found or re.search(r"\.amazonaws\.com(\.cn)?$", urlsplit(found).hostname or ""):
        return {}
    return {"endpoint_url": str(found)}


def _canonical(scheme: str) -> str:
    lower = scheme.lower()
    return _SYNONYMS.get(lower, lower)


def _absolute_path(text: str, base: str | None) -> str:
    slip = _ONE_SLASH.match(text)
    if slip is not None and not os.path.exists(text):
        raise ConfigError(f"URI {text!r}: expected {slip['scheme']}://, with two slashes after the colon.")
    if base is None or os.path.isabs(os.path.expanduser(text)):
        return os.path.abspath(os.path.expanduser(text))
    scheme, _ = split_uri(base)
    if scheme == LOCAL:
        return os.path.abspath(os.path.join(base, text))
    head, separator, rest = base.partition("://")
    bucket, _, key = rest.partition("/")
    joined = os.path.normpath(os.path.join("/", key, text)).lstrip("/")
    return f"{head}{separator}{bucket}/{joined}"


def _local_path(text: str, rest: str) -> str:
    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise ConfigError(f"URI {text!r}: expected file:///absolute/path, with three slashes.")
    return os.path.abspath(path)
