"""Which rows are read, against a table of frames drawn by brute force."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.io.visibility import END, visible_parts
from schemas.commit import Commit, Part
from tests.drawn_lake import DrawnVideo, committed_item

STOP = 12


def a_commit(unit_id: str, committed_at: float, videos: list[DrawnVideo], attempt_id: str = "attempt1") -> Commit:
    return Commit(
        run_id="run1",
        unit_id=unit_id,
        attempt_id=attempt_id,
        config_hash="config",
        items=tuple(committed_item(video) for video in videos),
        parts=tuple(
            Part(table=table, path=f"{table}/{unit_id}-{attempt_id}", rows=1, bytes=1, md5="")
            for table in ("masks", "tracks")
        ),
        errors=(),
        wall_seconds=1.0,
        committed_at=committed_at,
    )


def frames_read(commits: list[Commit]) -> dict[tuple[str, int], list[str]]:
    """(video, frame) to the units whose rows of it are read, by looking at each frame alone."""
    read: dict[tuple[str, int], list[str]] = {}
    for visible in visible_parts(commits):
        if visible.part.table != "masks":
            continue
        (commit,) = (
            commit for commit in commits if (commit.unit_id, commit.attempt_id) == (visible.unit_id, visible.attempt_id)
        )
        for item in commit.items:
            for frame in range(item.range_start, STOP if item.range_end is None else item.range_end):
                hidden = any(
                    rows.video_id == item.video_id and rows.start <= frame < rows.stop for rows in visible.hidden
                )
                if not hidden:
                    read.setdefault((item.video_id, frame), []).append(visible.unit_id)
    return read


def test_commits_of_different_videos_are_read_whole() -> None:
    commits = [a_commit("u1", 1.0, [DrawnVideo(video_id="a")]), a_commit("u2", 2.0, [DrawnVideo(video_id="b")])]
    visible = visible_parts(commits)
    assert [(part.unit_id, part.part.table, part.hidden) for part in visible] == [
        ("u1", "masks", ()),
        ("u1", "tracks", ()),
        ("u2", "masks", ()),
        ("u2", "tracks", ()),
    ]
    assert visible[0].video_ids == {"a"}


def test_of_two_commits_of_one_video_the_earlier_is_read() -> None:
    clip = DrawnVideo(video_id="clip")
    late, early = a_commit("a", 2.0, [clip]), a_commit("b", 1.0, [clip])
    for commits in ([late, early], [early, late]):
        assert {visible.unit_id for visible in visible_parts(commits)} == {"b"}


def test_commits_made_at_the_same_time_are_told_apart_by_name() -> None:
    clip = DrawnVideo(video_id="clip")
    commits = [a_commit("b", 1.0, [clip]), a_commit("a", 1.0, [clip], "attempt2"), a_commit("a", 1.0, [clip])]
    assert {(part.unit_id, part.attempt_id) for part in visible_parts(commits)} == {("a", "attempt1")}


def test_a_video_repacked_by_a_zombie_is_hidden_in_its_second_pack_alone() -> None:
    shared, first, second = (DrawnVideo(video_id=name) for name in ("shared", "first", "second"))
    for pack in ([shared, second], [second, shared]):
        commits = [a_commit("u1", 1.0, [shared, first]), a_commit("u2", 2.0, pack)]
        hidden = {part.unit_id: part.hidden for part in visible_parts(commits)}
        assert hidden["u1"] == ()
        (rows,) = hidden["u2"]
        assert (rows.video_id, rows.start, rows.stop, rows.tracks_too) == ("shared", 0, 20, True)


def test_a_range_that_overlaps_keeps_what_is_left_of_it_and_its_tracks() -> None:
    commits = [
        a_commit("u1", 1.0, [DrawnVideo(video_id="clip", stop=8)]),
        a_commit("u2", 2.0, [DrawnVideo(video_id="clip", start=5, stop=12)]),
    ]
    (rows,) = next(part.hidden for part in visible_parts(commits) if part.unit_id == "u2")
    assert (rows.start, rows.stop, rows.tracks_too) == (5, 8, False)


def test_a_range_to_the_end_overlaps_all_that_follows() -> None:
    whole = a_commit("u1", 1.0, [DrawnVideo(video_id="clip", start=4)])
    whole = replace(whole, items=(replace(whole.items[0], range_end=None),))
    ranged = a_commit("u2", 2.0, [DrawnVideo(video_id="clip", start=2, stop=9)])
    (rows,) = next(part.hidden for part in visible_parts([whole, ranged]) if part.unit_id == "u2")
    assert (rows.start, rows.stop) == (4, 9)
    (rows,) = next(
        part.hidden for part in visible_parts([replace(whole, committed_at=3.0), ranged]) if part.unit_id == "u1"
    )
    assert (rows.start, rows.stop) == (4, 9)
    assert END > 10**9


def test_runs_do_not_hide_each_other() -> None:
    clip = DrawnVideo(video_id="clip")
    commits = [a_commit("u1", 1.0, [clip]), replace(a_commit("u2", 2.0, [clip]), run_id="run2")]
    assert all(part.hidden == () for part in visible_parts(commits))


ranges = st.tuples(st.sampled_from("ab"), st.integers(0, STOP - 1), st.integers(1, STOP)).filter(
    lambda drawn: drawn[1] < drawn[2]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), ranges), max_size=6))
def test_every_committed_frame_is_read_from_the_earliest_commit_that_holds_it(
    drawn: list[tuple[int, tuple[str, int, int]]],
) -> None:
    commits = [
        a_commit(f"u{number}", float(time), [DrawnVideo(video_id=video, start=start, stop=stop)])
        for number, (time, (video, start, stop)) in enumerate(drawn)
    ]
    expected: dict[tuple[str, int], list[str]] = {}
    for commit in sorted(commits, key=lambda commit: (commit.committed_at, commit.unit_id)):
        for item in commit.items:
            for frame in range(item.range_start, item.range_end or STOP):
                expected.setdefault((item.video_id, frame), [commit.unit_id])
    assert frames_read(commits) == expected
