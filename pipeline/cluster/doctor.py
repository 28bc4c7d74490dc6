"""masklake doctor: what this machine has, what is missing, and what to do about it; names of credentials only."""

import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline.code_version import code_version

_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HF_TOKEN",
    "RAY_ADDRESS",
    "RAY_AUTH_MODE",
    "MASKLAKE_MODELS",
    "MASKLAKE_MIRROR",
    "MASKLAKE_OFFLINE",
)
_MIN_FREE_BYTES = 5 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `level` is "ok", "missing" (a part of masklake will not run) or "note"."""

    what: str
    level: str
    told: str


def run_doctor() -> int:
    """Say what this machine has and what is missing."""
    findings = examine()
    for finding in findings:
        print(f"{finding.level:8} {finding.what:14} {finding.told}")
    return 1 if any(finding.level == "missing" for finding in findings) else 0


def examine() -> list[Finding]:
    """Everything looked at, in the order of a run: Python, packages, device, Ray, stores, weights, disk."""
    findings = [
        Finding(what="masklake", level="ok", told=code_version()),
        Finding(what="python", level="ok", told=sys.version.split()[0]),
    ]
    findings += [_package(name, extra) for name, extra in _PACKAGES.items()]
    return [*findings, _device(), _ray_auth(), _credentials(), _scratch()]


_PACKAGES = {
    "duckdb": "",
    "pyarrow": "",
    "av": "run",
    "torch": "run",
    "sam2": "run",
    "transformers": "run",
    "ray": "run",
    "decord": "run",
    "s3fs": "s3",
}


def _package(name: str, extra: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        wanted = f"masklake[{extra}]" if extra else "masklake"
        level = "note" if name in ("s3fs", "decord") else "missing"
        return Finding(what=name, level=level, told=f"not installed: pip install '{wanted}'")
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = "installed, version unknown"
    return Finding(what=name, level="ok", told=version)


def _device() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding(what="device", level="missing", told="unknown without torch")
    import torch

    if not torch.cuda.is_available():
        return Finding(what="device", level="note", told=f"cpu only ({os.cpu_count()} cores); CUDA is not available")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding(what="device", level="ok", told=", ".join(names))


def _ray_auth() -> Finding:
    has_token = "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray" / "auth_token").is_file()
    mode = os.environ.get("RAY_AUTH_MODE")
    told = f"token {'found' if has_token else 'not found'}, RAY_AUTH_MODE {mode or 'not set'}"
    level = "note" if "RAY_ADDRESS" in os.environ and not has_token else "ok"
    return Finding(what="ray auth", level=level, told=told)


def _credentials() -> Finding:
    found = [name for name in _CREDENTIALS if name in os.environ]
    return Finding(what="environment", level="ok", told="set: " + (", ".join(found) or "none of ours"))


def _scratch() -> Finding:
    directory = tempfile.gettempdir()
    free = shutil.disk_usage(directory).free
    level = "ok" if free >= _MIN_FREE_BYTES else "note"
    return Finding(what="scratch", level=level, told=f"{directory}, {free / 2**30:.1f} GiB free")
