"""The contact sheet: masks where they are, captions that tell absence, one row per masklet."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.report.contact_sheet import PALETTE, SheetRow, draw_mask, write_contact_sheet


def test_a_mask_is_filled_outlined_and_nothing_else_is_touched() -> None:
    picture = np.full((20, 30, 3), 100, dtype=np.uint8)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 10:25] = True
    drawn = draw_mask(picture, mask, PALETTE[0])
    assert np.array_equal(drawn[~mask], picture[~mask])
    assert tuple(drawn[5, 10]) == PALETTE[0]
    # 55 % of the grey below, 45 % of the colour above.
    assert tuple(drawn[10, 15]) == tuple(int(0.55 * 100 + 0.45 * value) for value in PALETTE[0])
    assert picture.max() == 100, "the picture itself stays"


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one size"):
        draw_mask(np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4), bool), PALETTE[0])


def test_the_sheet_has_a_row_per_masklet_and_a_column_per_frame(tmp_path: Path) -> None:
    picture = np.full((20, 40, 3), (10, 200, 30), dtype=np.uint8)
    rows = [SheetRow(title=f"clip {row}", cells=((picture, "frame 0: 0.90"),) * 3) for row in range(2)]
    write_contact_sheet(rows, tmp_path / "sheet.png", note="a note", picture_width_px=80)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    green = (np.abs(sheet - (10, 200, 30)) < 25).all(axis=2)
    # Six pictures of 40 x 80: twice the width at the same shape.
    assert green.sum() == 6 * 40 * 80
    assert sheet.shape[1] >= 3 * 80


def test_a_sheet_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        write_contact_sheet([], tmp_path / "sheet.png")
