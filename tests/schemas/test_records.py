"""Records and names: what goes through JSON comes back, and equal content has equal names everywhere."""

import json
from dataclasses import replace

import pytest

from schemas.commit import Commit, CommittedItem, Part
from schemas.error_table import ErrorRecord
from schemas.ids import NUM_BUCKETS, bucket_of, check_run_id, content_digest, new_attempt_id
from schemas.run import RunRecord
from schemas.work_unit import Query, WorkItem, WorkUnit

ITEM = WorkItem(
    video_id="clip",
    video_uri="/videos/clip.mp4",
    queries=(
        Query(object_id=1, query_id="0", text="the dog that runs", motion_words=("runs",)),
        Query(object_id=2, query_id="1", frame_index=3, points=((1.5, 2.0, 1), (4.0, 5.0, -1))),
        Query(object_id=3, query_id="2", frame_index=0, box=(0.0, 1.0, 2.0, 3.0)),
        Query(object_id=4, query_id="3", frame_index=0, mask_rle={"size": [5, 7], "counts": "S1"}),
    ),
    dataset="drawn",
    end_frame=20,
    modalities={"depth": "/videos/depth"},
    tags={"scene": "4"},
    line=7,
)
UNIT = WorkUnit(run_id="run1", method="samwise", config_hash="config", items=(ITEM,))
ERROR = ErrorRecord(
    run_id="run1",
    unit_id="unit1",
    video_id=None,
    video_uri=None,
    stage="manifest",
    error_class="ManifestError",
    message="no video_uri",
    retryable=False,
    line=3,
    first_at=1.25,
    last_at=2.5,
)
COMMIT = Commit(
    run_id="run1",
    unit_id="unit1",
    attempt_id="attempt1",
    config_hash="config",
    items=(
        CommittedItem(
            item_id="item1",
            video_id="clip",
            video_uri="/videos/clip.mp4",
            range_start=0,
            range_end=None,
            frames=20,
            objects=4,
            rows=80,
            input_etag='"abc"',
            input_bytes=1000,
            device_seconds=0.5,
        ),
    ),
    parts=(Part(table="masks", path="data/masks/x.parquet", rows=80, bytes=900, md5="0" * 32),),
    errors=(replace(ERROR, stage="decode", item_id="item2"),),
    wall_seconds=1.5,
    committed_at=1e9,
)
RUN = RunRecord(
    run_id="run1",
    method="samwise",
    model="tiny",
    weights_sha256="0" * 64,
    code_version="0.1.0",
    config_json='{"a": 1}',
    config_hash="config",
    input_manifest_hash="manifest",
    seed=None,
    precision="bfloat16",
    device="cpu",
    started=1e9,
)


def test_a_commit_goes_through_json() -> None:
    assert Commit.from_json(COMMIT.to_json()) == COMMIT


def test_a_work_unit_goes_through_json_and_keeps_its_name() -> None:
    again = WorkUnit.from_json(UNIT.to_json())
    assert again == UNIT
    assert again.unit_id == UNIT.unit_id


def test_a_run_record_goes_through_json() -> None:
    assert RunRecord.from_json(RUN.to_json()) == RUN


def test_a_run_record_of_a_later_minor_version_is_read_without_what_it_added() -> None:
    later = json.loads(RUN.to_json()) | {"carbon_grams": 3.5}
    assert RunRecord.from_json(json.dumps(later)) == RUN


def test_a_run_record_needs_a_name_that_can_be_a_file() -> None:
    with pytest.raises(ValueError, match="Name the run with --run-id"):
        replace(RUN, run_id="a/b")


def test_an_error_names_a_known_stage() -> None:
    with pytest.raises(ValueError, match="stage 'nowhere': expected one of manifest, open"):
        replace(ERROR, stage="nowhere")


def test_an_item_is_named_by_what_decides_its_masks_alone() -> None:
    same = replace(ITEM, line=9, tags={}, dataset=None)
    assert same.item_id == ITEM.item_id
    others = [
        replace(ITEM, video_uri="/videos/other.mp4"),
        replace(ITEM, end_frame=21),
        replace(ITEM, stride=2),
        replace(ITEM, max_side=64),
        replace(ITEM, modalities={}),
        replace(ITEM, modality_order=("depth", "rgb")),
        replace(ITEM, modality_order=("rgb", "depth")),
        replace(ITEM, crop=(0, 0, 64, 48)),
        replace(ITEM, queries=ITEM.queries[:3]),
        replace(ITEM, queries=(replace(ITEM.queries[0], text="the cat"), *ITEM.queries[1:])),
    ]
    assert len({ITEM.item_id, *(item.item_id for item in others)}) == 11


def test_a_unit_is_named_by_its_content_whatever_run_asks_for_it() -> None:
    assert replace(UNIT, run_id="run2").unit_id == UNIT.unit_id
    other = replace(ITEM, video_uri="/videos/other.mp4")
    changed = [replace(UNIT, config_hash="x"), replace(UNIT, method="mosam"), replace(UNIT, items=(ITEM, other))]
    assert len({UNIT.unit_id, *(unit.unit_id for unit in changed)}) == 4


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert content_digest({"a": 1, "b": [1, None]}) == content_digest({"b": [1, None], "a": 1})
    assert content_digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad808"  # sha256 of {"a":1}, first half
    with pytest.raises(ValueError, match="JSON"):
        content_digest(float("nan"))


def test_buckets_are_few_and_all_used() -> None:
    assert {bucket_of(f"video-{number}") for number in range(500)} == set(range(NUM_BUCKETS))


def test_attempts_never_share_a_name() -> None:
    assert len({new_attempt_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("run_id", ["r", "2026-11-20.a_b", "x" * 128])
def test_run_ids_that_every_store_takes_pass(run_id: str) -> None:
    assert check_run_id(run_id) == run_id
