"""The contact sheet: masks where they are, a colour for each sentence, one row per video."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.io.storage import open_store
from pipeline.query import open_run
from pipeline.report.contact_sheet import PALETTE, SheetRow, draw_mask, video_rows, write_contact_sheet
from pipeline.synth.corpus import write_video
from tests.drawn_lake import HEIGHT, WIDTH, Drawing, DrawnVideo, drawn_confidence, drawn_mask


def test_a_mask_is_filled_outlined_and_nothing_else_is_touched() -> None:
    picture = np.full((20, 30, 3), 100, dtype=np.uint8)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 10:25] = True
    drawn = draw_mask(picture, mask, PALETTE[0])
    assert np.array_equal(drawn[~mask], picture[~mask])
    assert tuple(drawn[5, 10]) == PALETTE[0]
    assert tuple(drawn[6, 11]) == PALETTE[0], "two pixels wide"
    # 70 % of the grey below, 30 % of the colour above.
    assert tuple(drawn[10, 15]) == tuple(int(0.7 * 100 + 0.3 * value) for value in PALETTE[0])
    assert picture.max() == 100, "the picture itself stays"


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one size"):
        draw_mask(np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4), bool), PALETTE[0])


def test_the_sheet_has_a_row_per_video_and_a_column_per_frame(tmp_path: Path) -> None:
    picture = np.full((20, 40, 3), (10, 200, 30), dtype=np.uint8)
    lines = tuple((f"sentence {slot}", PALETTE[slot]) for slot in range(2))
    rows = [SheetRow(lines=lines, pictures=(picture,) * 3, captions=("frame 0",) * 3)] * 2
    write_contact_sheet(rows, tmp_path / "sheet.png", note="a note", picture_width_px=80)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    green = (np.abs(sheet - (10, 200, 30)) < 25).all(axis=2)
    # Six pictures of 40 x 80: twice the width at the same shape.
    assert green.sum() == 6 * 40 * 80
    assert sheet.shape[1] >= 3 * 80
    for colour in PALETTE[:2]:
        swatches = (np.abs(sheet - colour) < 25).all(axis=2)
        assert swatches.sum() >= 2 * 81, "each sentence in each row has its colour"


def test_a_video_is_one_row_with_every_masklet_in_its_colour(tmp_path: Path) -> None:
    drawing = Drawing(store=open_store(tmp_path / "lake"), scratch=tmp_path / "scratch")
    drawing.commit("unit1", "attempt1", [DrawnVideo(video_id="v", stop=6)])
    black = np.zeros((6, HEIGHT, WIDTH, 3), dtype=np.uint8)
    write_video(black, tmp_path / "v.mp4", frames_per_second=12)
    with open_run(tmp_path / "lake") as run:
        (row,) = video_rows(run, {"v": str(tmp_path / "v.mp4")}, num_columns=3)
    sure = [np.mean([drawn_confidence(number, frame) for frame in range(6)]) for number in (1, 2)]
    # Object 2 is away on frame 5 alone.
    sure[1] = np.mean([drawn_confidence(2, frame) for frame in range(5)])
    assert row.lines == (
        (f"rectangle 1's: confidence {sure[0]:.2f}, on 6 of 6 frames", PALETTE[0]),
        (f"rectangle 2's: confidence {sure[1]:.2f}, on 5 of 6 frames", PALETTE[1]),
    )
    assert row.captions == ("frame 0", "frame 2", "frame 5")
    first, second = (drawn_mask(number, 5) for number in (1, 2))
    assert not second.any()
    lit = row.pictures[2].max(axis=2) > 40
    assert np.array_equal(lit, first)
    # Drawn last, object 2 lies over object 1.
    edge = np.argwhere(drawn_mask(2, 2))[0]
    assert tuple(row.pictures[1][tuple(edge)]) == PALETTE[1]


def test_a_sheet_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        write_contact_sheet([], tmp_path / "sheet.png")
