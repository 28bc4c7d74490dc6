"""Prompts, frames and masks as plain values, through a file and back."""

import io
from typing import Any

import numpy as np
import torch

from pipeline.models.session_state import (
    image_from_state,
    image_to_state,
    outputs_from_state,
    outputs_to_state,
    prompts_from_state,
    prompts_to_state,
    to_cpu,
)
from pipeline.ticks import ObjectMask, PointPrompt, Prompt, TickMasks


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_prompts_come_back_whole() -> None:
    mask = np.random.default_rng(0).random((5, 7)) > 0.5
    prompts = [
        Prompt(object_id=1, text="a dog", query_id="q", motion_words=("runs",)),
        Prompt(object_id=2, frame_index=3, points=(PointPrompt(x=1.5, y=2, positive=False),), box=(0, 1, 2, 3)),
        Prompt(object_id=3, frame_index=0, mask=mask),
    ]
    back = prompts_from_state(through_a_file(prompts_to_state(prompts)))
    assert back[:2] == prompts[:2]
    assert back[2].mask is not None
    np.testing.assert_array_equal(back[2].mask, mask)


def test_finished_masks_come_back_whole() -> None:
    mask = np.random.default_rng(0).random((5, 7)) > 0.5
    found = ObjectMask(object_id=4, mask=mask, confidence=0.5, object_score=None, predicted_iou=0.25, class_id=7)
    tick = TickMasks(frame_index=3, pts_us=9, height=5, width=7, objects=(found,), flags=("a", "b"))
    (back,) = outputs_from_state(through_a_file(outputs_to_state([tick])))
    np.testing.assert_array_equal(back.objects[0].mask, mask)
    assert back.objects[0].mask.dtype == np.bool_
    assert (back.frame_index, back.pts_us, back.flags) == (3, 9, ("a", "b"))
    assert (back.objects[0].confidence, back.objects[0].object_score, back.objects[0].class_id) == (0.5, None, 7)


def test_frames_come_back_as_copies() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    state = image_to_state(image)
    back = image_from_state(through_a_file(state))
    np.testing.assert_array_equal(back, image)
    image[:] = 0
    assert back.any()
    assert state.any()


def test_a_row_of_a_batch_is_saved_without_the_batch() -> None:
    batch = torch.zeros(100, 1000)
    copied = to_cpu({"row": batch[3], "more": [(batch[4], "text", None)]})
    assert copied["row"].untyped_storage().nbytes() == 4000
    assert copied["more"][0][0].untyped_storage().nbytes() == 4000
    assert copied["more"][0][1:] == ("text", None)
