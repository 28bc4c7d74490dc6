"""Who is who across windows, in drawn masks; what is carried on; and when a frame shows something new."""

import pytest
import torch
from torch import Tensor

from pipeline.models.proposals import grid_points
from pipeline.models.vss_stitching import StitchConfig, points_on, shows_something_new, stitch, uncovered

CONFIG = StitchConfig()


def masks(*boxes: tuple[int, int, int, int]) -> Tensor:
    """True inside y0:y1, x0:x1 of 20 x 30."""
    drawn = torch.zeros(len(boxes), 20, 30, dtype=torch.bool)
    for one, (y0, y1, x0, x1) in zip(drawn, boxes, strict=True):
        one[y0:y1, x0:x1] = True
    return drawn


OLD = masks((0, 10, 0, 10), (0, 10, 12, 22), (12, 18, 0, 6))


def test_masks_are_matched_by_overlap_whatever_their_order() -> None:
    new = masks((1, 10, 12, 22), (0, 10, 1, 10), (12, 18, 20, 29))
    found = stitch(OLD, new, [True] * 3, CONFIG)
    assert found.old_of == (1, 0, None)
    assert found.carried == (2,)


def test_the_best_total_overlap_wins_over_the_best_single_one() -> None:
    old = masks((0, 10, 0, 10), (0, 10, 3, 13))
    new = masks((0, 10, 1, 11), (0, 10, 0, 7))
    # New 0 overlaps old 0 by 90/110 and old 1 by 80/120; new 1 overlaps old 0 by 70/100 and old 1 by 40/130.
    assert stitch(old, new, [True] * 2, CONFIG).old_of == (1, 0)


def test_pairs_below_the_least_overlap_stay_apart() -> None:
    new = masks((0, 10, 5, 15))
    assert stitch(OLD, new, [True] * 3, CONFIG).old_of == (None,)
    assert stitch(OLD, new, [True] * 3, CONFIG.model_copy(update={"min_iou": 0.3})).old_of == (0,)


def test_what_is_absent_empty_or_covered_is_not_carried() -> None:
    old = masks((0, 10, 0, 10), (0, 10, 0, 9), (0, 0, 0, 0), (12, 18, 0, 6), (0, 14, 0, 10))
    new = masks((0, 10, 0, 10))
    found = stitch(old, new, [True, True, True, False, True], CONFIG)
    # Old 1 is covered by the new mask wholly, old 4 by 100/140.
    assert found.old_of == (0,)
    assert found.carried == (4,)
    strict = CONFIG.model_copy(update={"max_covered": 0.7})
    assert stitch(old, new, [True] * 5, strict).carried == (3,)


def test_nothing_is_stitched_where_it_is_turned_off_or_there_is_nothing() -> None:
    off = CONFIG.model_copy(update={"stitch": False})
    assert stitch(OLD, OLD, [True] * 3, off).old_of == (None, None, None)
    assert stitch(OLD, OLD, [True] * 3, off).carried == ()
    assert stitch(OLD[:0], OLD, [], CONFIG).old_of == (None, None, None)
    assert stitch(OLD, OLD[:0], [True] * 3, CONFIG).carried == (0, 1, 2)
    assert stitch(OLD, OLD[:0], [True] * 3, CONFIG, carries=False).carried == ()


@pytest.mark.parametrize(
    ("share", "at_key", "expected"),
    [(0.16, 0.10, True), (0.16, 0.12, False), (0.09, 0.0, False), (0.5, 0.5, False), (0.15, 0.1, True)],
)
def test_new_objects_are_looked_for_when_the_uncovered_share_is_large_and_has_grown(
    share: float, at_key: float, expected: bool
) -> None:
    assert shows_something_new(share, at_key, CONFIG.model_copy(update={"uncovered_growth": 0.049})) is expected


def test_points_are_asked_only_where_nothing_covers() -> None:
    free = uncovered(masks((0, 20, 0, 15), (0, 10, 15, 30)), (20, 30), torch.device("cpu"))
    assert free.sum() == 10 * 15
    points = grid_points(4)
    assert [points[index] for index in points_on(free, points)] == [(x, y) for x, y in points if x > 0.5 and y > 0.5]
    assert uncovered(masks(), (20, 30), torch.device("cpu")).all()
