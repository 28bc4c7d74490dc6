"""Before anything runs: the manifest read, the model resolved, the settled left out, the units planned."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.cluster.config import CorpusJob, parse_shard
from pipeline.cluster.probing import Probed, probe_all
from pipeline.cluster.progress import Progress
from pipeline.cluster.refusals import record_refusals
from pipeline.cluster.speeds import Speed, chosen_kind, speed_of
from pipeline.code_version import code_version
from pipeline.engine.worker import WorkerSettings
from pipeline.errors import ConfigError
from pipeline.io import commit_log
from pipeline.io.detections import Detections, read_detections
from pipeline.io.manifest import ManifestReading, read_manifest
from pipeline.io.plan import Plan, plan_units
from pipeline.io.plan_report import estimate, render_plan
from pipeline.io.storage import Store, open_store
from pipeline.io.uris import name_of
from pipeline.io.weights import ResolvedModel, resolve_model
from pipeline.io.weights_folders import resolve_folders
from schemas.commit import Commit
from schemas.ids import check_run_id, content_digest
from schemas.run import RunRecord
from schemas.work_unit import WorkItem

logger = logging.getLogger(__name__)

RUN_FOLDERS = ("_commits", "_errors", "_manifests", "_attempts", "_snapshots")
"""What --overwrite forgets of a run; the parts themselves are then garbage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that is known before the first unit runs.

    Attributes:
        settings: what every worker is built from.
        num_committed_before, num_failed_before: items of the manifest that already have an outcome.
    """

    job: CorpusJob
    run_id: str
    store: Store
    reading: ManifestReading
    model: ResolvedModel
    settings: WorkerSettings
    config_hash: str
    plan: Plan
    probed: Mapping[str, Probed]
    speed: Speed | None
    num_committed_before: int
    num_failed_before: int
    started: float

    @property
    def num_videos(self) -> int:
        return self.plan.num_items + self.reading.num_refused_rows

    def render(self) -> str:
        """The plan as it is printed before a run."""
        cost = estimate(
            self.plan,
            num_workers=self.job.num_actors,
            seconds_per_query_frame=None if self.speed is None else self.speed.seconds_per_query_frame,
            bytes_of={item.video_uri: self.probed[item.item_id].num_bytes for item in self._probed_items()},
        )
        table = render_plan(
            self.plan,
            cost,
            num_committed=self.num_committed_before,
            num_failed_before=self.num_failed_before,
            num_refused_rows=self.reading.num_refused_rows,
        )
        lines = [f"run {self.run_id}: {self.settings.method} with {self.model.name} -> {self.store.root_uri}", table]
        lines += [f"speed assumed: {self.speed.source}"] if self.speed else []
        lines += [f"refused: {problem}" for problem in self.reading.refused[:20]]
        if not self.model.trained:
            lines.append(f"note: {self.model.name} has untrained, seeded random weights; its masks mean nothing.")
        return "\n".join(lines)

    def _probed_items(self) -> list[WorkItem]:
        return [item for item in self.reading.items if item.item_id in self.probed]


def prepare(job: CorpusJob) -> Prepared:
    """Read, resolve and plan; writes nothing.

    Raises:
        ConfigError, ManifestError, WeightsError, StorageError: see the parts.
    """
    store = open_store(job.output)
    if store.is_local and Path(store.root_uri).is_file():
        raise ConfigError(f"--output {job.output}: a file is there. Name a folder that holds a lake, or none yet.")
    run_id = _run_id(job, store)
    reading = read_manifest(job.manifest, needs=job.needs, strict=job.strict, detections=_detections(job))
    reading = replace(reading, items=tuple(_with_defaults(item, job) for item in reading.items))
    model = resolve_model(
        job.model, offline=job.offline or None, trust_unpinned=job.trust_unpinned, tokenizer_dir=job.tokenizer
    )
    config_hash = content_digest(_lineage_of_config(job, model))
    commits = () if job.overwrite else commit_log.read_commits(store, run_id)
    errors = () if job.overwrite else commit_log.read_errors(store, run_id)
    settled = commit_log.settled_items(commits, errors, "failed" if job.retry_failed else "retryable")
    probed = probe_all(
        (item for item in reading.items if item.item_id not in settled),
        scratch_dir=job.scratch_dir,
        needed=job.unit_frames is not None or job.pack_frames is not None,
    )
    plan = plan_units(
        reading.items,
        run_id=run_id,
        method=job.method_name,
        config_hash=config_hash,
        settled=settled,
        unit_frames=job.unit_frames,
        pack_frames=job.pack_frames,
        frames_of=_known_frames(probed),
        align=job.align_frames,
        shard=None if job.shard is None else parse_shard(job.shard),
    ).limit(job.limit)
    _refuse_changed_rows(job, reading, commits, probed)
    failed = {error.item_id for error in commit_log.outstanding_errors(commits, errors)}
    return Prepared(
        job=job,
        run_id=run_id,
        store=store,
        reading=reading,
        model=model,
        settings=_worker_settings(job, store, model, config_hash),
        config_hash=config_hash,
        plan=plan,
        probed=probed,
        speed=speed_of(commits, architecture=model.architecture_name or "", device=chosen_kind(job.device)),
        num_committed_before=len([item for item in plan.settled if item.item_id not in failed]),
        num_failed_before=len([item for item in plan.settled if item.item_id in failed]),
        started=time.time(),
    )


def begin_run(prepared: Prepared) -> RunRecord:
    """Write the run's record, or find that it is a resume; put refused rows into the errors table.

    Raises:
        ConfigError: the run was begun under another configuration.
    """
    job, store, run_id = prepared.job, prepared.store, prepared.run_id
    if job.overwrite:
        forget_run(store, run_id)
    standing = commit_log.begin_run(store, _run_record(prepared))
    record_refusals(store, run_id, prepared.reading)
    return standing


def withdraw_run(prepared: Prepared, record: RunRecord, progress: Progress) -> bool:
    """Take back the record of a run in which nothing was done, so that corrected settings find the lake free.

    Returns:
        Whether it was taken back: not where an earlier start wrote it, or anything has had an outcome.
    """
    store, run_id = prepared.store, prepared.run_id
    if record.started != prepared.started or progress.units or commit_log.read_commits(store, run_id):
        return False
    record_refusals(store, run_id, replace(prepared.reading, refused=()))
    store.delete([f"{commit_log.RUNS}/{run_id}.json"])
    return True


def finish_run(prepared: Prepared, record: RunRecord, progress: Progress) -> None:
    """Fill in how the run ended, over all its attempts, and fold its commits when they are many."""
    commits = commit_log.read_commits(prepared.store, prepared.run_id)
    errors = commit_log.outstanding_errors(commits, commit_log.read_errors(prepared.store, prepared.run_id))
    ended = replace(
        record,
        finished=time.time(),
        n_units=len(prepared.plan.units) + len({commit.unit_id for commit in commits}) - progress.units_committed,
        n_videos=prepared.plan.num_items + len(prepared.plan.settled),
        n_videos_ok=sum(len(commit.items) for commit in commits),
        n_videos_failed=len(errors),
        n_frames=_total(commits, "frames"),
        n_masks=_total(commits, "rows"),
    )
    commit_log.finish_run(prepared.store, ended)
    commit_log.compact_commits(prepared.store, prepared.run_id, min_commits=1000)


def forget_run(store: Store, run_id: str) -> None:
    """Make a run as if it had never been; its parts stay until `masklake gc`."""
    paths = [file.path for folder in RUN_FOLDERS for file in store.list(f"{folder}/run={run_id}")]
    store.delete([*paths, f"_runs/{run_id}.json"])


def _known_frames(probed: Mapping[str, Probed]) -> dict[str, int]:
    return {item_id: found.num_frames for item_id, found in probed.items() if found.num_frames is not None}


def _refuse_changed_rows(
    job: CorpusJob, reading: ManifestReading, commits: Iterable[Commit], probed: Mapping[str, Probed]
) -> None:
    """What was asked of a committed video must not change within a run: its frames would be there under two questions.

    Raises:
        ConfigError: rows changed since their videos were committed.
    """
    every = plan_units(
        reading.items,
        run_id="all",
        method=job.method_name,
        config_hash="",
        unit_frames=job.unit_frames,
        frames_of=_known_frames(probed),
        align=job.align_frames,
    )
    asked = {item.item_id for unit in every.units for item in unit.items}
    videos = {item.video_id for item in reading.items}
    changed = {
        item.video_id
        for commit in commits
        for item in commit.items
        if item.video_id in videos and item.item_id not in asked
    }
    if changed:
        named = ", ".join(sorted(changed)[:10]) + (", ..." if len(changed) > 10 else "")
        raise ConfigError(
            f"{len(changed)} rows of the manifest changed since their videos were committed in this run: {named}. "
            "Give changed rows another video_id, name another run with --run-id, or do all again with --overwrite."
        )


def _run_id(job: CorpusJob, store: Store) -> str:
    try:
        return check_run_id(job.run_id or name_of(store.root_uri))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _detections(job: CorpusJob) -> Detections | None:
    return None if job.detection_options is None else read_detections(job.detection_options)


def _with_defaults(item: WorkItem, job: CorpusJob) -> WorkItem:
    return item if item.max_side is not None or job.max_side is None else replace(item, max_side=job.max_side)


def _lineage_of_config(job: CorpusJob, model: ResolvedModel) -> dict[str, Any]:
    """What decides masks: method, its config, the weights (or the seed that makes them up), where videos are cut."""
    bundle = {} if job.bundle_options is None else {"bundle": job.bundle_options.model_dump(mode="json")}
    folders = resolve_folders(job.folders, offline=job.offline or None, trust_unpinned=job.trust_unpinned)
    networks = {"folders": {role: found.sha256 for role, found in folders.items()}} if folders else {}
    return (
        bundle
        | networks
        | {
            "method": job.method_name,
            "config": job.method_config.model_dump(mode="json"),
            "architecture": [model.architecture_name, dict(model.architecture)],
            "weights_sha256": model.sha256,
            "seed": None if model.trained else job.seed,
            # A video committed in ranges must not be planned whole by a resume, nor the other way round.
            "unit_frames": job.unit_frames,
        }
    )


def _worker_settings(job: CorpusJob, store: Store, model: ResolvedModel, config_hash: str) -> WorkerSettings:
    return WorkerSettings(
        lake=store.root_uri,
        method=job.method_name,
        method_config=job.method_config.model_dump(mode="json"),
        model=job.model,
        tokenizer=job.tokenizer,
        offline=job.offline,
        trust_unpinned=job.trust_unpinned,
        device=job.device,
        seed=job.seed,
        max_videos=job.videos_per_actor,
        scratch_dir=job.scratch_dir,
        snapshot_frames=job.snapshot_frames,
        bundle=job.bundle_options,
        folders=job.folders,
        lineage={
            "method": job.method_name,
            "model": model.name,
            "weights_sha256": model.sha256 or "",
            "code_version": code_version(),
            "config_hash": config_hash,
        },
    )


def _run_record(prepared: Prepared) -> RunRecord:
    job = prepared.job
    return RunRecord(
        run_id=prepared.run_id,
        method=job.method_name,
        model=prepared.model.name,
        weights_sha256=prepared.model.sha256,
        code_version=code_version(),
        config_json=job.model_dump_json(),
        config_hash=prepared.config_hash,
        input_manifest_hash=prepared.reading.digest,
        seed=job.seed,
        precision=str(getattr(job.method_config, "precision", "fp32")),
        device=job.device,
        started=prepared.started,
        n_units=len(prepared.plan.units),
        n_videos=prepared.plan.num_items + len(prepared.plan.settled),
    )


def _total(commits: Iterable[Commit], name: str) -> int:
    return sum(getattr(item, name) for commit in commits for item in commit.items)
