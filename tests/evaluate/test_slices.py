"""Tables by slice: means by hand, intervals against the normal law, and the way to JSON and back."""

import json

import numpy as np
import pytest

from pipeline.evaluate.slices import Measurement, SliceTable, slice_table


def measured(clip_id: str, j: float, *slices: str, **others: float) -> Measurement:
    return Measurement(clip_id=clip_id, slices=frozenset(slices), values={"j": j, **others})


FEW = [
    measured("a", 0.2, "late"),
    measured("a", 0.6, "late", "plural", right_twin=1.0),
    measured("b", 0.7, "plural"),
    measured("c", 0.9),
]


def test_each_slice_is_averaged_over_its_items() -> None:
    table = slice_table(FEW, seed=1)
    cells = {(row.slice, row.metric): (row.mean, row.num_items, row.num_clips) for row in table.rows}
    assert cells == {
        ("all", "j"): (pytest.approx(0.6), 4, 3),
        ("all", "right_twin"): (1.0, 1, 1),
        ("late", "j"): (pytest.approx(0.4), 2, 1),
        ("late", "right_twin"): (1.0, 1, 1),
        ("plural", "j"): (pytest.approx(0.65), 2, 2),
        ("plural", "right_twin"): (1.0, 1, 1),
    }
    assert [row.slice for row in table.rows] == ["all", "all", "late", "late", "plural", "plural"]
    assert table.row("late", "j").mean == pytest.approx(0.4)


def test_the_interval_of_many_clips_is_that_of_the_normal_law() -> None:
    """300 clips of one item: half-width 1.96 standard errors."""
    generator = np.random.default_rng(5)
    values = generator.uniform(0, 1, 300)
    table = slice_table([measured(str(place), value) for place, value in enumerate(values)], seed=2, num_resamples=4000)
    row = table.row("all", "j")
    half_width = 1.96 * values.std() / np.sqrt(len(values))
    assert row.mean - row.low == pytest.approx(half_width, rel=0.08)
    assert row.high - row.mean == pytest.approx(half_width, rel=0.08)


def test_items_of_one_clip_are_drawn_together() -> None:
    """Ten copies in each clip carry no news: the interval is that of the clips, not sqrt(10) times narrower."""
    generator = np.random.default_rng(6)
    values = generator.uniform(0, 1, 100)
    once = slice_table([measured(str(place), value) for place, value in enumerate(values)], seed=3)
    tenfold = slice_table(
        [measured(str(place), value) for place, value in enumerate(values) for _ in range(10)], seed=3
    )
    assert tenfold.row("all", "j").low == pytest.approx(once.row("all", "j").low)
    assert tenfold.row("all", "j").high == pytest.approx(once.row("all", "j").high)


def test_a_slice_of_a_single_clip_has_an_interval_without_width() -> None:
    row = slice_table(FEW, seed=1).row("late", "j")
    assert (row.low, row.high) == (pytest.approx(0.4), pytest.approx(0.4))


def test_a_wider_level_gives_a_wider_interval_and_a_seed_repeats_it() -> None:
    items = [measured(str(place), value) for place, value in enumerate(np.linspace(0, 1, 20))]
    narrow, wide = (slice_table(items, seed=4, level=level).row("all", "j") for level in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert slice_table(items, seed=4) == slice_table(items, seed=4)
    assert slice_table(items, seed=4) != slice_table(items, seed=5)


def test_a_table_survives_json() -> None:
    table = slice_table(FEW, seed=1)
    assert SliceTable.from_json(json.loads(json.dumps(table.to_json()))) == table
    with pytest.raises(ValueError, match="not one that `to_json` wrote"):
        SliceTable.from_json({"rows": [{"slice": "all"}]})
    with pytest.raises(ValueError, match="No late/f in the table; it has all/j"):
        table.row("late", "f")


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(ValueError, match="a: j is nan"):
        slice_table([measured("a", float("nan"))], seed=1)
    with pytest.raises(ValueError, match="0 measurements"):
        slice_table([], seed=1)
    with pytest.raises(ValueError, match="none has a value"):
        slice_table([Measurement(clip_id="a", slices=frozenset(), values={})], seed=1)
    with pytest.raises(ValueError, match=r"level 95"):
        slice_table(FEW, seed=1, level=95)
