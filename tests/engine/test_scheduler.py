"""The next batch as a value: buckets, groups, precedence, fairness, and no work forgotten."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.scheduler import Batch, Waiting, choose_batch
from pipeline.segmenter import Work

pytestmark = pytest.mark.timeout(30)

BUCKETS = {"encode": 4, "track": 8}
NOW = 100


def waiting(
    session_id: int, stage: str = "track", group: int = 0, size: int = 1, since: int = NOW, served: int = 0
) -> Waiting:
    work = Work(stage=stage, group=group, size=size)
    return Waiting(session_id=session_id, work=work, waiting_since=since, rows_served=served)


def choose(entries: list[Waiting], patience_batches: int | None = None) -> Batch | None:
    return choose_batch(entries, BUCKETS, now=NOW, patience_batches=patience_batches)


@st.composite
def any_waiting(draw: st.DrawFn) -> list[Waiting]:
    entries = []
    for session_id in range(draw(st.integers(1, 12))):
        stage = draw(st.sampled_from(sorted(BUCKETS)))
        entries.append(
            waiting(
                session_id,
                stage,
                draw(st.integers(0, 2)),
                draw(st.integers(1, BUCKETS[stage])),
                draw(st.integers(NOW - 60, NOW)),
                draw(st.integers(0, 50)),
            )
        )
    return entries


def test_nothing_waiting_gives_no_batch() -> None:
    assert choose([]) is None


@settings(deadline=None)
@given(any_waiting())
def test_a_batch_fits_its_bucket_holds_one_stage_and_group_and_leaves_out_nothing_that_fits(
    entries: list[Waiting],
) -> None:
    batch = choose(entries)
    assert batch is not None
    by_id = {entry.session_id: entry.work for entry in entries}
    chosen = [by_id[session_id] for session_id in batch.session_ids]
    assert len(set(batch.session_ids)) == len(batch.session_ids) >= 1
    assert {(work.stage, work.group) for work in chosen} == {(batch.stage, batch.group)}
    assert batch.rows == sum(work.size for work in chosen) <= BUCKETS[batch.stage]
    left_out = [entry.work for entry in entries if entry.session_id not in batch.session_ids]
    room = BUCKETS[batch.stage] - batch.rows
    assert all(work.size > room for work in left_out if (work.stage, work.group) == (batch.stage, batch.group))


@settings(deadline=None)
@given(any_waiting(), st.randoms(use_true_random=False))
def test_the_order_in_which_sessions_are_listed_does_not_matter(
    entries: list[Waiting], shuffler: random.Random
) -> None:
    shuffled = list(entries)
    shuffler.shuffle(shuffled)
    assert choose(shuffled) == choose(entries)


def test_a_full_early_bucket_goes_before_a_part_filled_late_one() -> None:
    entries = [waiting(i, "encode") for i in range(4)] + [waiting(9, "track", size=7)]
    assert choose(entries) == Batch(stage="encode", group=0, session_ids=(0, 1, 2, 3), rows=4)


def test_of_two_part_filled_buckets_the_fuller_one_goes_first() -> None:
    entries = [waiting(0, "encode"), waiting(1, "encode"), waiting(2, "track", size=3)]
    assert choose(entries) == Batch(stage="encode", group=0, session_ids=(0, 1), rows=2)


def test_of_two_equally_full_buckets_the_later_stage_goes_first() -> None:
    entries = [waiting(0, "encode"), waiting(1, "encode"), waiting(2, "track", size=4)]
    assert choose(entries) == Batch(stage="track", group=0, session_ids=(2,), rows=4)


def test_within_a_stage_the_fuller_group_goes_first() -> None:
    entries = [waiting(0, group=1, size=2), waiting(1, group=2, size=2), waiting(2, group=2, size=3)]
    assert choose(entries) == Batch(stage="track", group=2, session_ids=(1, 2), rows=5)


def test_a_work_is_never_split_and_a_smaller_one_fills_the_gap_that_it_leaves() -> None:
    entries = [waiting(0, size=6), waiting(1, size=3), waiting(2, size=2)]
    assert choose(entries) == Batch(stage="track", group=0, session_ids=(0, 2), rows=8)


def test_who_had_the_fewest_rows_is_first_in_the_bucket() -> None:
    entries = [waiting(0, size=5, served=40), waiting(1, size=5, served=12), waiting(2, size=3, served=60)]
    assert choose(entries) == Batch(stage="track", group=0, session_ids=(1, 2), rows=8)


def test_a_work_that_waited_long_enough_goes_before_a_full_bucket() -> None:
    entries = [waiting(i, "track", served=0) for i in range(8)]
    entries += [waiting(8, "encode", group=5, since=NOW - 9, served=999)]
    assert choose(entries, patience_batches=10) == Batch(stage="track", group=0, session_ids=tuple(range(8)), rows=8)
    assert choose(entries, patience_batches=9) == Batch(stage="encode", group=5, session_ids=(8,), rows=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 10), st.none() | st.integers(0, 6), st.randoms(use_true_random=False))
def test_no_work_waits_longer_than_patience_and_one_batch_per_other_session(
    num_sessions: int, patience: int | None, draws: random.Random
) -> None:
    def work_of() -> Work:
        stage = draws.choice(sorted(BUCKETS))
        # Session 0 always wants what goes last otherwise: a group of its own, in the first stage.
        return Work(stage=stage, group=draws.randint(0, 2), size=draws.randint(1, BUCKETS[stage]))

    table = [Waiting(session_id=i, work=work_of(), waiting_since=0, rows_served=0) for i in range(num_sessions)]
    table[0] = Waiting(
        session_id=0, work=Work(stage="encode", group="rare", size=1), waiting_since=0, rows_served=10**6
    )
    for now in range(80):
        batch = choose_batch(table, BUCKETS, now=now, patience_batches=patience)
        assert batch is not None
        for i, entry in enumerate(table):
            if entry.session_id in batch.session_ids:
                assert (
                    now - entry.waiting_since <= (4 * num_sessions if patience is None else patience) + num_sessions - 1
                )
                work = entry.work if i == 0 else work_of()
                table[i] = Waiting(session_id=i, work=work, waiting_since=now + 1, rows_served=entry.rows_served + 1)


def rows_after(sizes: list[int], num_batches: int) -> list[int]:
    """Rows that always-busy sessions of these sizes are given, charged as the table charges them."""
    served = [0] * len(sizes)
    for now in range(num_batches):
        entries = [waiting(i, size=size, since=now, served=served[i]) for i, size in enumerate(sizes)]
        batch = choose_batch(entries, BUCKETS, now=now)
        assert batch is not None
        assert min(range(len(sizes)), key=lambda i: (served[i], i)) in batch.session_ids
        for session_id in batch.session_ids:
            served[session_id] += sizes[session_id]
    return served


@settings(deadline=None)
@given(st.lists(st.integers(5, 8), min_size=2, max_size=8))
def test_sessions_that_cannot_share_a_bucket_are_given_equal_rows(sizes: list[int]) -> None:
    served = rows_after(sizes, 100)
    assert max(served) - min(served) <= BUCKETS["track"]


@settings(deadline=None)
@given(st.lists(st.integers(1, 8), min_size=2, max_size=8))
def test_no_session_has_fewer_rows_than_an_equal_part_of_the_batches(sizes: list[int]) -> None:
    # Whoever fills a gap gets ahead at nobody's cost: the least served one is in every batch.
    num_batches = 100
    assert min(rows_after(sizes, num_batches)) >= num_batches // len(sizes) * min(sizes) - BUCKETS["track"]
