"""CorpusJob: what all four jobs can be told, and the one reader of flags and YAML files."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.decode.bundle_options import BundleOptions
from pipeline.errors import ConfigError
from pipeline.io.detections import DetectionOptions
from pipeline.io.manifest_rows import Needs

JobT = TypeVar("JobT", bound="CorpusJob")


class CorpusJob(BaseModel):
    """Options that every corpus job shares. Subclasses add the method's own config as one nested field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method_name: ClassVar[str]
    """Name in the registry of segmenters."""
    needs: ClassVar[Needs]
    """What the method asks of a manifest's rows."""

    @property
    def method_config(self) -> BaseModel:
        """The method's own config, the nested field of the subclass."""
        raise TypeError(f"{type(self).__name__} does not say which of its fields is the method's config")

    @property
    def bundle_options(self) -> BundleOptions | None:
        """How modalities are brought together; None where the method reads rgb only."""
        return None

    @property
    def align_frames(self) -> int:
        """Ranges of long videos begin at multiples of this many frames."""
        return 1

    @property
    def folders(self) -> dict[str, str]:
        """Role to name of further networks that the method reads from a folder; see `resolve_folder`."""
        return {}

    @property
    def detection_options(self) -> DetectionOptions | None:
        """The table whose boxes join the manifest's prompts, for jobs that take one."""
        return None

    manifest: str
    """Videos and what is asked of them: a .csv, .jsonl or .parquet file, local or in a store."""
    output: str
    """Root of the lake: a folder or a store URI. The same output is the same run, gone on with."""
    run_id: str | None = None
    """Name of the run within the lake; by default the last part of --output."""
    model: str = "tiny"
    """Name in the weights registry, a path, or a URI. The default is the tiny model inside the package."""
    tokenizer: str | None = None
    """Folder with the tokenizer's files, if the model's entry does not bring it."""
    offline: bool = False
    """Take weights from this machine and mirrors only; never ask a hub."""
    trust_unpinned: bool = False
    """Accept weights whose hash nobody has pinned yet, and pin what came."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs. "cuda" without CUDA is an error, never a silent CPU run."""
    runner: Literal["ray", "local"] = "ray"
    """Ray's actor pool, or threads in this process."""
    num_actors: Annotated[int, Field(ge=1)] = 1
    """Actors, each with the model loaded."""
    gpus_per_actor: Annotated[float, Field(ge=0)] | None = None
    """GPUs (fractions too) that one actor reserves; by default 1 on cuda, else 0."""
    cpus_per_actor: Annotated[float, Field(ge=0)] = 1.0
    """CPUs that one actor reserves."""
    videos_per_actor: Annotated[int, Field(ge=1, le=256)] = 4
    """Live videos per actor: concurrent calls beside its one engine thread."""
    max_unit_attempts: Annotated[int, Field(ge=1)] = 5
    """Starts of one unit without an outcome (its worker died each time) before it counts as failed."""
    no_progress_hours: Annotated[float, Field(gt=0)] = 6.0
    """A run in which no unit ends for this long is given up."""
    max_side: Annotated[int, Field(ge=16)] | None = None
    """Longest side of decoded frames in pixels, for rows that do not say."""
    unit_frames: Annotated[int, Field(ge=1)] | None = None
    """Cut longer videos into ranges of about this many frames. A range begins with an empty memory."""
    pack_frames: Annotated[int, Field(ge=1)] | None = None
    """Pack short videos into one unit up to this many frames."""
    snapshot_frames: Annotated[int, Field(ge=1)] | None = None
    """Save a video's session every so many frames, so that a killed worker goes on inside it."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Do only this many units."""
    shard: str | None = None
    """Do only shard i of n, written i/n with 0 <= i < n."""
    dry_run: bool = False
    """Print the plan and stop."""
    overwrite: bool = False
    """Do committed units again, and allow another config than the run began with."""
    retry_failed: bool = False
    """Try failed inputs again, also those where a retry makes no sense without a change."""
    strict: bool = False
    """Refuse a manifest with a bad row instead of recording the row in the errors table."""
    max_errors: str | None = None
    """Give up after more than N failed videos, or P% of them. By default a run never gives up."""
    fail_on_partial: bool = False
    """Exit with 3 when some videos failed (a Ray job then shows FAILED); otherwise such a run exits with 0."""
    seed: int = 0
    """Seed of untrained weights and of every random choice."""
    scratch_dir: str | None = None
    """Local folder for downloads and staging; by default the system's."""
    log_json: bool = False
    """Log lines as JSON."""
    quiet: bool = False
    """Only warnings, errors and the summary."""

    @field_validator("shard")
    @classmethod
    def _shard_is_i_of_n(cls, value: str | None) -> str | None:
        if value is not None:
            parse_shard(value)
        return value

    @field_validator("max_errors")
    @classmethod
    def _max_errors_is_a_count_or_share(cls, value: str | None) -> str | None:
        if value is not None:
            max_failures(value, 100)
        return value


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/8" as (2, 8). Raises ValueError unless 0 <= i < n."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"{text!r}: expected i/n with 0 <= i < n, as in 0/8")
    return int(index), int(count)


def max_failures(text: str, num_videos: int) -> int:
    """How many failed videos "N" or "P%" allows out of num_videos. Raises ValueError if it is neither."""
    number = text.removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if value < 0 or (text.endswith("%") and value > 100) or (not text.endswith("%") and value != int(value)):
        raise ValueError(f"{text!r}: expected a count as in 20, or a share as in 1%")
    return int(num_videos * value / 100) if text.endswith("%") else int(value)


def parse_job(job_class: type[JobT], arguments: Sequence[str], *, prog: str) -> JobT:
    """A job from flags, over `--config FILE` (YAML with the same names), over the class's defaults.

    Raises:
        ConfigError: the file cannot be read, a key is unknown (with the nearest known one), or a value is refused.
        SystemExit: a flag's value cannot be read (2), or --help was asked for (0).
    """
    config_files, flags = _split_config_flags(arguments)
    values: dict[str, Any] = {}
    for path in config_files:
        values |= read_config_file(job_class, path)
    _refuse_unknown_flags(job_class, flags)
    default = _partial_default(job_class, values)
    try:
        job: JobT = tyro.cli(job_class, prog=prog, args=list(flags), default=default)
        return job_class.model_validate(job.model_dump())
    except ValidationError as error:
        raise ConfigError(_one_line_per_problem(error, "flags")) from error


def read_config_file(job_class: type[BaseModel], path: str) -> dict[str, Any]:
    """The YAML file's values, checked against the class; required options may be missing.

    Raises:
        ConfigError: it cannot be read, is no mapping, has an unknown key, or a value is refused.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: expected option names and values, got a {type(values).__name__}.")
    _refuse_unknown_keys(job_class, values, path)
    try:
        job_class.model_validate(values)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if problem["type"] != "missing"]
        if problems:
            raise ConfigError(_one_line_per_problem(error, f"--config {path}")) from error
    return values


def _refuse_unknown_keys(model: type[BaseModel], values: Mapping[str, Any], where: str, prefix: str = "") -> None:
    for key, value in values.items():
        if key not in model.model_fields:
            near = difflib.get_close_matches(str(key), list(model.model_fields), n=1)
            hint = f" Did you mean {prefix}{near[0]}?" if near else f" Known: {', '.join(model.model_fields)}."
            raise ConfigError(f"--config {where}: unknown option {prefix}{key}.{hint}")
        nested = model.model_fields[key].annotation
        if isinstance(value, dict) and isinstance(nested, type) and issubclass(nested, BaseModel):
            _refuse_unknown_keys(nested, value, where, f"{prefix}{key}.")


def flag_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every flag of a job, without its dashes, in the order of the class: "manifest", "samwise.hsa"."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        flag = prefix + name.replace("_", "-")
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            names += flag_names(nested, f"{flag}.")
        else:
            names.append(flag)
    return names


def _refuse_unknown_flags(job_class: type[BaseModel], flags: Sequence[str]) -> None:
    known = [*flag_names(job_class), "help"]
    for flag in flags:
        if not flag.startswith("--"):
            continue
        name = flag[2:].partition("=")[0].replace("_", "-")
        *groups, last = name.split(".")
        positive = ".".join([*groups, last.removeprefix("no-")])
        if name not in known and positive not in known:
            near = difflib.get_close_matches(positive, known, n=1)
            hint = f" Did you mean --{near[0]}?" if near else " See --help."
            raise ConfigError(f"unknown option {flag.partition('=')[0]}.{hint}")


def _partial_default(job_class: type[JobT], values: Mapping[str, Any]) -> JobT:
    required = {name: tyro.MISSING for name, field in job_class.model_fields.items() if field.is_required()}
    complete = {name: values.get(name, "?") for name in required} | dict(values)
    parsed = job_class.model_validate(complete)
    fields = {name: getattr(parsed, name) for name in job_class.model_fields}
    fields |= {name: missing for name, missing in required.items() if name not in values}
    return job_class.model_construct(**fields)


def _split_config_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    files: list[str] = []
    flags: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            files.append(next(remaining, ""))
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            flags.append(argument)
    if "" in files:
        raise ConfigError("--config: expected the path of a YAML file after it.")
    return files, flags


def _one_line_per_problem(error: ValidationError, where: str) -> str:
    lines = [
        f"{where}: {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']} (got {problem.get('input')!r})"
        for problem in error.errors()
        if problem["type"] != "missing"
    ]
    return "\n".join(lines)


def command_line() -> str:
    """The command as it was typed, for the run record."""
    return " ".join(sys.argv)
