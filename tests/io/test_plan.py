"""Plans compared as values: ranges, packs, shards, and what is left out."""

import dataclasses
import random
from typing import Any

import pytest

from pipeline.io.plan import Plan, cut, frames_to_read, plan_units
from pipeline.io.plan_report import estimate, render_plan
from schemas.work_unit import Query, WorkItem


def video(name: str, **fields: Any) -> WorkItem:
    queries = fields.pop("queries", (Query(object_id=1, query_id="0", text="it"),))
    return WorkItem(video_id=name, video_uri=f"/v/{name}.mp4", queries=queries, **fields)


def planned(items: list[WorkItem], **options: Any) -> Plan:
    return plan_units(items, run_id="r", method="samwise", config_hash="c", **options)


def lengths(items: list[WorkItem], *frames: int) -> dict[str, int]:
    return {item.item_id: count for item, count in zip(items, frames, strict=True)}


def ids(plan: Plan) -> list[list[str]]:
    return [[item.video_id for item in unit.items] for unit in plan.units]


def ranges(items: tuple[WorkItem, ...]) -> list[tuple[int, int | None]]:
    return [(item.start_frame, item.end_frame) for item in items]


def test_by_default_one_video_is_one_unit_in_the_order_of_the_manifest() -> None:
    plan = planned([video("b"), video("a")])
    assert ids(plan) == [["b"], ["a"]]
    assert {(unit.run_id, unit.method, unit.config_hash) for unit in plan.units} == {("r", "samwise", "c")}
    assert plan.num_frames is None
    assert planned([]).units == ()


@pytest.mark.parametrize(
    ("start", "end", "stride", "source", "read"),
    [
        (0, None, 1, 100, 100),
        (10, None, 1, 100, 90),
        (10, 50, 7, 100, 6),
        (10, 500, 7, 100, 13),
        (0, 50, 1, None, 50),
        (0, None, 1, None, None),
        (100, None, 1, 100, 0),
        (200, None, 3, 100, 0),
    ],
)
def test_frames_to_read_are_those_that_a_range_would_give(
    start: int, end: int | None, stride: int, source: int | None, read: int | None
) -> None:
    assert frames_to_read(video("a", start_frame=start, end_frame=end, stride=stride), source) == read
    if source is not None:
        assert read == len(range(source)[start:end:stride])


def test_a_long_video_is_cut_at_clip_boundaries() -> None:
    item = video("a", start_frame=3, stride=2)
    assert ranges(cut(item, 203, unit_frames=30, align=8)) == [(3, 51), (51, 99), (99, 147), (147, None)]
    assert ranges(cut(video("a", end_frame=90), None, unit_frames=40, align=1)) == [(0, 40), (40, 90)]
    assert ranges(cut(video("a", end_frame=100), None, unit_frames=40, align=1)) == [(0, 40), (40, 80), (80, 100)]
    assert ranges(cut(video("a"), 64, unit_frames=5, align=8)) == [(first, first + 8) for first in range(0, 56, 8)] + [
        (56, None)
    ]


def test_ranges_cover_every_frame_once_and_begin_at_clips() -> None:
    draw = random.Random(7)
    for _ in range(300):
        start, stride, source = draw.randrange(50), draw.randint(1, 5), draw.randint(1, 400)
        end = draw.choice([None, start + draw.randint(1, 400)])
        unit_frames, align = draw.randint(1, 60), draw.randint(1, 9)
        item = video("a", start_frame=start, end_frame=end, stride=stride)
        parts = cut(item, source, unit_frames=unit_frames, align=align)
        frames = list(range(source))
        assert [f for part in parts for f in frames[part.start_frame : part.end_frame : stride]] == frames[
            start:end:stride
        ]
        assert all((part.start_frame - start) % (align * stride) == 0 for part in parts)
        longest = max(unit_frames, align) * 1.5
        assert all((frames_to_read(part, source) or 0) <= longest for part in parts)
        assert parts[-1].end_frame == end


def test_ranges_are_items_of_their_own() -> None:
    item = video("a")
    plan = planned([item], unit_frames=40, frames_of=lengths([item], 90))
    assert ids(plan) == [["a"], ["a"]]
    assert len({unit.unit_id for unit in plan.units} | {item.item_id}) == 3
    assert [one.num_frames for one in plan.planned] == [40, 50]


def test_a_video_with_geometric_prompts_or_of_unknown_length_stays_whole() -> None:
    clicked = video("a", queries=(Query(object_id=1, query_id="0", frame_index=0, points=((1, 2, 1),)),))
    assert cut(clicked, 1000, unit_frames=10, align=1) == (clicked,)
    assert cut(video("b"), None, unit_frames=10, align=1) == (video("b"),)


def test_settled_items_are_dropped_before_packing() -> None:
    items = [video(name) for name in "abcde"]
    options: dict[str, Any] = {"pack_frames": 30, "frames_of": lengths(items, 10, 10, 10, 10, 10)}
    assert ids(planned(items, **options)) == [["a", "b", "c"], ["d", "e"]]
    plan = planned(items, settled={items[1].item_id, items[3].item_id}, **options)
    assert ids(plan) == [["a", "c", "e"]]
    assert [item.video_id for item in plan.settled] == ["b", "d"]


def test_settled_ranges_are_dropped_and_a_video_settled_whole_is_not_cut() -> None:
    items = [video("a"), video("b")]
    options: dict[str, Any] = {"unit_frames": 10, "frames_of": lengths(items, 30, 30)}
    second = cut(items[0], 30, unit_frames=10, align=1)[1]
    plan = planned(items, settled={second.item_id, items[1].item_id}, **options)
    assert [ranges(unit.items) for unit in plan.units] == [[(0, 10)], [(20, None)]]
    assert plan.settled == (second, items[1])


def test_packs_hold_short_videos_and_leave_long_and_unknown_ones_alone() -> None:
    items = [video(name) for name in "abcdef"]
    known = lengths(items, 10, 99, 15, 10, 30, 1)
    del known[items[3].item_id]
    plan = planned(items, pack_frames=30, frames_of=known)
    assert ids(plan) == [["a", "c"], ["b"], ["d"], ["e"], ["f"]]
    assert [one.num_frames for one in plan.planned] == [25, 99, None, 30, 1]


def test_shards_share_the_items_whatever_is_settled_and_packed() -> None:
    items = [video(f"v{number}") for number in range(60)]
    options: dict[str, Any] = {"pack_frames": 50, "frames_of": lengths(items, *[10] * 60)}
    shards = [planned(items, shard=(index, 3), **options) for index in range(3)]
    names = [{name for unit in ids(plan) for name in unit} for plan in shards]
    assert sorted(name for part in names for name in part) == sorted(item.video_id for item in items)
    assert all(len(part) > 10 for part in names)
    assert [plan.num_items + plan.num_other_shards for plan in shards] == [60] * 3
    settled = {item.item_id for item in items[::2]}
    again = {name for unit in ids(planned(items, shard=(1, 3), settled=settled, **options)) for name in unit}
    assert again == {item.video_id for item in items[1::2]} & names[1]


def test_a_plan_is_the_same_every_time_and_knows_nothing_of_the_manifests_lines() -> None:
    items = [video(f"v{number}") for number in range(20)]
    moved = [dataclasses.replace(item, line=number, tags={"k": "v"}) for number, item in enumerate(items)]
    options: dict[str, Any] = {"pack_frames": 25, "frames_of": lengths(items, *range(1, 21))}
    assert [unit.unit_id for unit in planned(items, **options).units] == [
        unit.unit_id for unit in planned(moved, **options).units
    ]


def test_limit_keeps_the_first_units() -> None:
    plan = planned([video(name) for name in "abc"])
    assert ids(plan.limit(2)) == [["a"], ["b"]]
    assert plan.limit(None) is plan
    assert ids(plan.limit(9)) == ids(plan)


@pytest.mark.parametrize("option", ["unit_frames", "pack_frames", "align"])
def test_a_number_out_of_range_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} 0: expected at least 1"):
        planned([video("a")], **{option: 0})


def test_an_estimate_adds_up() -> None:
    two = tuple(Query(object_id=number, query_id=str(number), text="x") for number in (1, 2))
    items = [video("a", queries=two), video("b"), video("c", queries=(), stride=2)]
    plan = planned(items, frames_of=lengths(items, 100, 50, 40))
    sizes = {"/v/a.mp4": 1000, "/v/b.mp4": 500, "/v/c.mp4": 24}
    cost = estimate(plan, num_workers=2, seconds_per_frame=0.1, seconds_per_query_frame=0.02, bytes_of=sizes)
    assert (cost.units, cost.videos, cost.frames, cost.query_frames) == (3, 3, 170, 270)
    assert cost.input_bytes == 1524
    assert cost.device_seconds == pytest.approx(17.0 + 5.4)
    assert cost.wall_seconds == pytest.approx(10.0 + 4.0), "no less than the longest unit"
    one = estimate(plan, num_workers=1, seconds_per_frame=0.1, seconds_per_query_frame=0.02)
    assert one.wall_seconds == one.device_seconds
    assert one.input_bytes is None


def test_what_is_unknown_is_called_unknown() -> None:
    plan = planned([video("a"), video("b", end_frame=10)])
    cost = estimate(plan, seconds_per_frame=0.1)
    assert (cost.frames, cost.query_frames, cost.units_unknown) == (10, 10, 1), "what is known is counted"
    assert (cost.device_seconds, cost.wall_seconds) == (pytest.approx(1.0), pytest.approx(1.0))
    assert "frames         10 and 1 units of unknown length" in render_plan(plan, cost)
    nothing = planned([video("a")])
    cost = estimate(nothing, seconds_per_frame=0.1)
    assert (cost.frames, cost.query_frames, cost.device_seconds, cost.wall_seconds) == (None, None, None, None)
    text = render_plan(nothing, cost)
    assert "frames         unknown" in text
    assert "expected" not in text
    assert estimate(planned([]), seconds_per_frame=1.0).wall_seconds == 0.0


def test_a_plan_is_shown_as_an_aligned_table() -> None:
    items = [video("a"), video("b")]
    plan = planned(
        [*items, video("c")], unit_frames=3000, settled={video("c").item_id}, frames_of=lengths(items, 7200, 1000)
    )
    cost = estimate(plan, num_workers=4, seconds_per_frame=0.5, bytes_of={"/v/a.mp4": 3 * 2**30, "/v/b.mp4": 2**20})
    assert render_plan(plan, cost, num_failed_before=0, num_refused_rows=3) == "\n".join(
        [
            "videos         2 (3 ranges)",
            "units          3",
            "frames         8,200",
            "masks          8,200",
            "input          3.0 GiB",
            "output         about 2.8 MiB",
            "committed      1",
            "failed before  0",
            "refused rows   3",
            "device time    1:08:20 h",
            "expected       35:00 min on 4 workers",
        ]
    )
