"""A directory of images reads as a video: natural order, one size, 8-bit RGB."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from pipeline.decode.frame_folder import frame_files, natural_key
from pipeline.decode.video import DecodeOptions, open_video
from pipeline.errors import DecodeError
from tests.decode.test_video import ticks_of
from tests.drawn_video import draw_frame, read_number


def write_folder(folder: Path, names: list[str], *, height: int = 32, width: int = 48) -> None:
    """Images that show their place in `names`."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        PillowImage.fromarray(draw_frame(number, height, width)).save(folder / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "PNG"])
def test_every_image_comes_out_in_natural_order(suffix: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "f", [f"frame_{i}.{suffix}" for i in range(12)])
    ticks = ticks_of(tmp_path / "f")
    assert [read_number(tick.rgb) for tick in ticks] == list(range(12))
    assert [tick.frame_index for tick in ticks] == list(range(12))
    assert ticks[0].rgb.shape == (32, 48, 3)


def test_lossless_images_come_out_as_they_are(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", ["0.png", "1.png"])
    assert all(np.array_equal(tick.rgb, draw_frame(i, 32, 48)) for i, tick in enumerate(ticks_of(tmp_path / "f")))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a10", "a9", "a1"], ["a1", "a9", "a10"]),
        (["00010", "00002", "1"], ["1", "00002", "00010"]),
        (["v2_f1", "v1_f10", "v1_f2"], ["v1_f2", "v1_f10", "v2_f1"]),
        (["b", "a", "10", "9"], ["a", "b", "9", "10"]),
    ],
)
def test_digits_sort_by_value(names: list[str], expected: list[str]) -> None:
    assert sorted(names, key=natural_key) == expected


@pytest.mark.parametrize(
    ("fps", "step_us"), [(None, 1_000_000 / 24), (10.0, 100_000), (30000 / 1001, 1001_000_000 / 30000)]
)
def test_times_come_from_the_rate(fps: float | None, step_us: float, tmp_path: Path) -> None:
    write_folder(tmp_path / "f", [f"{i}.png" for i in range(7)])
    ticks = ticks_of(tmp_path / "f", DecodeOptions(fps=fps))
    assert [tick.pts_us for tick in ticks] == [round(i * step_us) for i in range(7)]


def test_a_range_reads_only_its_own_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", [f"{i}.png" for i in range(12)])
    (tmp_path / "f" / "11.png").write_bytes(b"no image")
    (tmp_path / "f" / "4.png").write_bytes(b"no image")
    ticks = ticks_of(tmp_path / "f", DecodeOptions(start_frame=3, end_frame=10, stride=3, max_side=24))
    assert [(tick.frame_index, read_number(tick.rgb)) for tick in ticks] == [(3, 3), (6, 6), (9, 9)]
    assert ticks[0].rgb.shape == (16, 24, 3)


def test_the_stream_tells_what_the_folder_holds(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", [f"{i}.png" for i in range(5)])
    with open_video(tmp_path / "f", DecodeOptions(max_side=24, fps=6.0), read_ahead_frames=2) as stream:
        assert (stream.height, stream.width, stream.source_height, stream.source_width) == (16, 24, 32, 48)
        assert (stream.fps, stream.num_frames_estimate) == (6.0, 5)
        assert len(list(stream)) == 5


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    values = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) * 42
    (tmp_path / "f").mkdir()
    PillowImage.fromarray(values).save(tmp_path / "f" / "0.png")
    rgb = ticks_of(tmp_path / "f")[0].rgb
    assert np.array_equal(rgb, np.repeat((values // 256).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_kinds_of_image_become_rgb(mode: str, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    image = PillowImage.fromarray(draw_frame(5, 32, 48)).convert(mode)
    image.save(tmp_path / "f" / "0.png")
    rgb = ticks_of(tmp_path / "f")[0].rgb
    assert rgb.shape == (32, 48, 3)
    assert np.array_equal(rgb, np.asarray(image.convert("RGB")))


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    upright = draw_frame(1365, 48, 32)
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # Stored turned to the left: to be turned clockwise for display.
    PillowImage.fromarray(np.rot90(upright).copy()).save(tmp_path / "f" / "0.jpg", exif=exif, quality=95)
    with open_video(tmp_path / "f") as stream:
        assert (stream.height, stream.width) == (48, 32)
        assert read_number(next(stream).rgb) == 1365


def test_files_that_are_no_frames_are_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", ["0.png", "1.png"])
    (tmp_path / "f" / "notes.txt").write_text("hello")
    (tmp_path / "f" / ".hidden.png").write_bytes(b"")
    (tmp_path / "f" / "more").mkdir()
    assert [file.name for file in frame_files(tmp_path / "f")] == ["0.png", "1.png"]


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", ["0.png", "1.png"])
    PillowImage.fromarray(draw_frame(2, 48, 32)).save(tmp_path / "f" / "2.png")
    with open_video(tmp_path / "f") as stream:
        assert [next(stream).frame_index, next(stream).frame_index] == [0, 1]
        with pytest.raises(DecodeError, match=r"2\.png: 48x32 .* is 32x48"):
            next(stream)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_an_image_that_was_cut_off_is_named(suffix: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "f", [f"{i}.{suffix}" for i in range(3)], height=96, width=96)
    data = (tmp_path / "f" / f"1.{suffix}").read_bytes()
    (tmp_path / "f" / f"1.{suffix}").write_bytes(data[: len(data) // 2])
    with open_video(tmp_path / "f") as stream:
        assert next(stream).frame_index == 0
        with pytest.raises(DecodeError, match=rf"1\.{suffix}: not a whole image"):
            next(stream)


def test_what_has_no_eight_bit_meaning_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    PillowImage.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "f" / "0.tiff")
    with pytest.raises(DecodeError, match=r"0\.tiff: pixels of Pillow's mode 'F'"):
        open_video(tmp_path / "f")


@pytest.mark.parametrize(
    ("names", "message"), [([], "no image in this folder"), (["1.png", "1.jpg"], r"both 1\.jpg and 1\.png")]
)
def test_a_folder_that_is_no_video_says_so(names: list[str], message: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "f", names)
    with pytest.raises(DecodeError, match=message):
        open_video(tmp_path / "f")


def test_a_start_beyond_the_last_image_is_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", ["0.png", "1.png"])
    with pytest.raises(DecodeError, match="start_frame 2 is beyond the end, there are 2 frames"):
        open_video(tmp_path / "f", DecodeOptions(start_frame=2))
