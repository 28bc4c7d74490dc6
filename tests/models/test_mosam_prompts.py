"""User prompts in the model's pixels; what cannot be tracked is refused with its object and frame."""

from typing import Any

import numpy as np
import pytest

from pipeline.errors import PromptError
from pipeline.models.mosam_prompts import read_prompts
from pipeline.ticks import PointPrompt, Prompt

SIZE = (40, 80)
NAN = float("nan")


def prompt(**fields: Any) -> Prompt:
    return Prompt(**{"object_id": 3, "frame_index": 2, **fields})


def point(x: float, y: float, positive: bool = True) -> dict[str, Any]:
    return {"points": (PointPrompt(x=x, y=y, positive=positive),)}


def test_points_and_boxes_are_stretched_onto_the_square_corners_first() -> None:
    (shown,) = read_prompts([prompt(box=(10, 5, 30, 25), **point(20, 10, positive=False))], SIZE, 64)[2]
    assert shown.points_xy == ((8, 8), (24, 40), (16, 16))
    assert (shown.labels, shown.kind) == ((2, 3, 0), "points_box")


def test_boxes_that_reach_over_the_rim_are_cut_to_the_frame() -> None:
    (shown,) = read_prompts([prompt(box=(-4, 5, 100, 25))], SIZE, 64)[2]
    assert shown.points_xy == ((0, 8), (64, 40))


def test_prompts_are_sorted_by_frame_and_object() -> None:
    given = [prompt(object_id=i, frame_index=f, **point(1, 1)) for i, f in ((9, 0), (2, 5), (1, 5))]
    assert [(f, [s.object_id for s in shown]) for f, shown in read_prompts(given, SIZE, 64).items()] == [
        (0, [9]),
        (5, [1, 2]),
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (point(80, 10), r"point \(80, 10\) lies outside the frame of 80 x 40"),
        (point(10, -1), "outside"),
        (point(NAN, 1), "not finite"),
        ({"box": (5.0, 5.0, 4.0, 9.0)}, r"x1 > x0"),
        ({"box": (90.0, 5.0, 99.0, 9.0)}, "outside the frame"),
        ({"box": (NAN, 5.0, 99.0, 9.0)}, "not finite"),
        ({"mask": np.zeros(SIZE, np.bool_)}, "the mask is empty"),
        ({"mask": np.ones((80, 40), np.bool_)}, r"expected bool \(40, 80\)"),
        (point(10, 10, positive=False), "only background points"),
        ({"frame_index": -1, **point(1, 1)}, "0 or more"),
    ],
)
def test_what_cannot_be_tracked_is_refused_with_object_and_frame(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PromptError, match=said) as refused:
        read_prompts([prompt(**fields)], SIZE, 64)
    assert "object 3, frame" in str(refused.value)


def test_two_objects_of_one_id_and_texts_and_nothing_are_refused() -> None:
    with pytest.raises(PromptError, match="object 3 is shown twice on frame 2"):
        read_prompts([prompt(**point(1, 1)), prompt(**point(9, 9))], SIZE, 64)
    with pytest.raises(PromptError, match="only a text"):
        read_prompts([Prompt(object_id=1, text="a dog")], SIZE, 64)
    with pytest.raises(PromptError, match="no prompt"):
        read_prompts([], SIZE, 64)
