"""The runs table and its record: where the rows came from (method, weights, code, config, input) and how it went."""

import json
from dataclasses import asdict, dataclass, fields

import pyarrow as pa

from schemas.fields import documented
from schemas.ids import SCHEMA_VERSION, check_run_id

RUNS: pa.Schema = documented(
    ("run_id", pa.string(), "Run."),
    ("started", pa.timestamp("us", tz="UTC"), "When the run was first started; a resume does not change it."),
    ("finished", pa.timestamp("us", tz="UTC"), "When it last ended; null while it has not."),
    ("method", pa.string(), "Method, as the registry of segmenters names it."),
    ("model", pa.string(), "Model, as the weights registry names it."),
    ("weights_sha256", pa.string(), "SHA-256 of the weights in hex; null for seeded random weights."),
    ("code_version", pa.string(), "Version of masklake, with the commit when it is known."),
    ("config_json", pa.string(), "The job's whole configuration."),
    ("config_hash", pa.string(), "Digest of method config, weights and decode options; equal hashes, equal masks."),
    ("input_manifest_hash", pa.string(), "Digest of the manifest's rows."),
    ("schema_version", pa.string(), "Version of the tables' schemas."),
    ("seed", pa.int64(), "Seed of the run; null when nothing is drawn."),
    ("precision", pa.string(), "Number format of the model on the device, such as float32 or bfloat16."),
    ("device", pa.string(), "Device the masks were made on, such as cpu or the GPU's product name."),
    ("n_units", pa.int64(), "Work units planned."),
    ("n_videos", pa.int64(), "Videos (or ranges) planned."),
    ("n_videos_ok", pa.int64(), "Videos (or ranges) committed; null until the run has ended."),
    ("n_videos_failed", pa.int64(), "Videos (or ranges) that failed; null until the run has ended."),
    ("n_frames", pa.int64(), "Frames committed; null until the run has ended."),
    ("n_masks", pa.int64(), "Rows of the masks table committed; null until the run has ended."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run's lineage. Fields as in RUNS; times are seconds since the epoch, UTC.

    Raises:
        ValueError: the run id cannot be a file name.
    """

    run_id: str
    method: str
    model: str
    weights_sha256: str | None
    code_version: str
    config_json: str
    config_hash: str
    input_manifest_hash: str
    seed: int | None
    precision: str
    device: str
    started: float
    finished: float | None = None
    n_units: int = 0
    n_videos: int = 0
    n_videos_ok: int | None = None
    n_videos_failed: int | None = None
    n_frames: int | None = None
    n_masks: int | None = None
    schema_version: str = SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_run_id(self.run_id)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """The record; keys that a later minor version of the schema added are passed over."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})
