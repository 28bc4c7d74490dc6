"""Pictures come out upright, in the colours that were drawn, and at the asked size."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.decode.pixels import Orientation, fitted_size
from pipeline.decode.video import DecodeOptions, open_video
from pipeline.errors import DecodeError
from tests.decode.test_video import ticks_of
from tests.drawn_video import (
    Encoding,
    Picture,
    draw_frame,
    drawn_colors,
    patch_colors,
    read_number,
    write_pictures,
    write_video,
)

CODEC_LEVELS = 8.0
"""Mean error in grey levels that lossy coding of drawn frames stays below; a wrong turn is off by more than 50."""


def mean_error(a: Picture, b: Picture) -> float:
    return float(np.abs(a.astype(np.int64) - b).mean())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
def test_a_turned_video_comes_out_upright(suffix: str, degrees: int, hflip: bool, tmp_path: Path) -> None:
    upright = [draw_frame(number, 80, 48) for number in range(3)]
    stored = [np.ascontiguousarray(_undo(upright[i], degrees, hflip)) for i in range(3)]
    assert mean_error(np.rot90(upright[1], 2), upright[1]) > 4 * CODEC_LEVELS
    assert mean_error(upright[1][:, ::-1], upright[1]) > 4 * CODEC_LEVELS
    path = tmp_path / f"v.{suffix}"
    write_pictures(path, stored, encoding=Encoding(rotation=degrees, hflip=hflip))
    with open_video(path) as stream:
        assert (stream.height, stream.width) == (80, 48)
        for picture, tick in zip(upright, stream, strict=True):
            assert mean_error(tick.rgb, picture) < CODEC_LEVELS


def _undo(picture: Picture, degrees: int, hflip: bool) -> Picture:
    """The stored picture that gives this one when turned counter-clockwise and then flipped."""
    return np.rot90(picture[:, ::-1] if hflip else picture, -degrees // 90)


def test_a_turned_video_is_fitted_by_its_upright_sides(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 3, height=48, width=80, encoding=Encoding(rotation=90))
    with open_video(tmp_path / "v.mp4", DecodeOptions(max_side=40)) as stream:
        assert (stream.source_height, stream.source_width) == (80, 48)
        assert (stream.height, stream.width) == (40, 24)
        assert next(stream).rgb.shape == (40, 24, 3)


def test_a_turn_that_changes_in_mid_stream_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No encoder at hand writes such a file: the turn is told by a stand-in, the second frame being turned."""
    turns = iter([Orientation(), Orientation(), Orientation(transpose=True)])
    monkeypatch.setattr("pipeline.decode.video.orientation_of", lambda picture, *, where: next(turns))
    write_video(tmp_path / "v.mp4", 3)
    with open_video(tmp_path / "v.mp4") as stream:
        assert next(stream).frame_index == 0
        with pytest.raises(DecodeError, match="frame 1: the picture is turned otherwise"):
            next(stream)


def test_a_slanted_display_matrix_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 3, encoding=Encoding(rotation=45))
    with pytest.raises(DecodeError, match="no turn by 0, 90, 180 or 270"):
        open_video(tmp_path / "v.mp4")


@pytest.mark.parametrize(
    "encoding",
    [
        Encoding(),
        Encoding(colorspace=5),
        Encoding(colorspace=1),
        Encoding(colorspace=9),
        Encoding(color_range=2),
        Encoding(colorspace=1, color_range=2),
        Encoding(pix_fmt="yuv420p10le"),
        Encoding(pix_fmt="yuv420p10le", colorspace=1),
        Encoding(codec="libx265", pix_fmt="yuv420p10le"),
        Encoding(pix_fmt="yuv444p"),
        Encoding(codec="libvpx-vp9", pix_fmt="yuv420p"),
        Encoding(codec="mjpeg", pix_fmt="yuvj420p"),
        Encoding(codec="ffv1", pix_fmt="yuv422p10le"),
        Encoding(codec="ffv1", pix_fmt="bgr0"),
    ],
    ids=lambda e: f"{e.codec}-{e.pix_fmt}-{e.colorspace}-{e.color_range}",
)
def test_colours_are_those_that_were_drawn(encoding: Encoding, tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", 5, height=48, width=96, encoding=encoding)
    for number, tick in enumerate(ticks_of(tmp_path / "v.mkv")):
        assert np.abs(patch_colors(tick.rgb) - drawn_colors(number)).max() < 6.0


def test_the_matrix_that_the_file_states_is_the_one_used(tmp_path: Path) -> None:
    """Restated as BT.601, BT.709 data come out wrong by more than the tolerance above."""
    write_video(tmp_path / "v.mkv", 5, height=48, width=96, encoding=Encoding(codec="ffv1", colorspace=1))
    data = (tmp_path / "v.mkv").read_bytes()
    bt709, bt601 = b"\x55\xb1\x81\x01", b"\x55\xb1\x81\x06"  # Matroska: MatrixCoefficients, one byte.
    assert data.count(bt709) == 1
    (tmp_path / "v.mkv").write_bytes(data.replace(bt709, bt601))
    restated = ticks_of(tmp_path / "v.mkv")
    assert np.abs(patch_colors(restated[0].rgb) - drawn_colors(0)).max() > 12.0


@pytest.mark.parametrize(("height", "width"), [(47, 81), (45, 64), (48, 77), (25, 37)])
@pytest.mark.parametrize(("codec", "pix_fmt"), [("ffv1", "yuv420p"), ("mpeg4", "yuv420p"), ("libx264", "yuv444p")])
def test_odd_sizes_keep_their_last_row_and_column(
    height: int, width: int, codec: str, pix_fmt: str, tmp_path: Path
) -> None:
    pictures = [np.repeat(np.linspace(10, 240, height).astype(np.uint8)[:, None], width, axis=1) for _ in range(3)]
    pictures = [np.repeat(picture[:, :, None], 3, axis=2) for picture in pictures]
    write_pictures(tmp_path / "v.mkv", pictures, encoding=Encoding(codec=codec, pix_fmt=pix_fmt))
    for tick in ticks_of(tmp_path / "v.mkv"):
        assert tick.rgb.shape == (height, width, 3)
        assert np.abs(tick.rgb.astype(int) - pictures[0]).max() < 12
        assert tick.rgb.flags.c_contiguous
        assert tick.rgb.flags.writeable


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((480, 854), None, (480, 854)),
        ((480, 854), 854, (480, 854)),
        ((480, 854), 2000, (480, 854)),
        ((480, 854), 427, (240, 427)),
        ((854, 480), 427, (427, 240)),
        ((3, 5), 4, (2, 4)),
        ((5, 10), 5, (3, 5)),
        ((1, 1000), 10, (1, 10)),
        ((1080, 1920), 1024, (576, 1024)),
    ],
)
def test_the_longer_side_is_fitted_and_the_other_rounds_half_up(
    size: tuple[int, int], max_side: int | None, expected: tuple[int, int]
) -> None:
    assert fitted_size(*size, max_side) == expected


def test_downsizing_averages_areas(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    grey = np.repeat(rng.integers(0, 256, (48, 96, 1), dtype=np.uint8), 3, axis=2)
    write_pictures(tmp_path / "v.mkv", [grey], encoding=Encoding(codec="ffv1", pix_fmt="yuv444p"))
    small = ticks_of(tmp_path / "v.mkv", DecodeOptions(max_side=24))[0].rgb
    expected = grey.reshape(12, 4, 24, 4, 3).mean(axis=(1, 3))
    assert small.shape == (12, 24, 3)
    assert np.abs(small - expected).max() < 4.0


@pytest.mark.parametrize("max_side", [79, 64, 41, 36])
def test_numbers_stay_readable_at_any_size(max_side: int, tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 8, numbers=range(2048, 2056))
    ticks = ticks_of(tmp_path / "v.mp4", DecodeOptions(max_side=max_side))
    assert [read_number(tick.rgb) for tick in ticks] == list(range(2048, 2056))
    assert max(ticks[0].rgb.shape) == max_side


def test_a_size_that_changes_in_mid_stream_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "a.h264", 8, height=48, width=80, format="h264")
    write_video(tmp_path / "b.h264", 8, height=64, width=96, format="h264")
    joined = (tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes()
    (tmp_path / "joined.h264").write_bytes(joined)
    with open_video(tmp_path / "joined.h264", DecodeOptions(fps=25.0)) as stream:
        got = [read_number(next(stream).rgb) for _ in range(8)]
        with pytest.raises(DecodeError, match=r"frame 8: the picture is 96x64, those before it 80x48"):
            next(stream)
    assert got == list(range(8))
