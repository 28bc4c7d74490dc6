"""Random access gives the frame, index and time that streaming gives, whichever library decodes."""

import io
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.decode.clips import Backend, open_clips
from pipeline.decode.video import DecodeOptions
from pipeline.errors import DecodeError
from tests.decode.test_broken_files import damage
from tests.decode.test_frame_folder import write_folder
from tests.decode.test_video import FILES, ticks_of
from tests.drawn_video import Encoding, read_number, write_video

UNEVEN = Encoding(time_base=Fraction(1, 1000), pts=[0, 33, 66, 100, 101, 200, *range(300, 2100, 100)])
BOTH: dict[str, Encoding] = {
    "h264.mp4": Encoding(),
    "uneven.mkv": UNEVEN,
    "vp9.webm": Encoding(codec="libvpx-vp9"),
    "hevc.mp4": Encoding(codec="libx265"),
    "ffv1.mkv": Encoding(codec="ffv1"),
    "bt709_full.mp4": Encoding(colorspace=1, color_range=2),
    "fragments.mp4": Encoding(muxer={"movflags": "frag_keyframe+empty_moov+delay_moov"}),
}
ORDERS: tuple[list[int], ...] = ([0], [23], [5, 4, 3], [7, 7, 0, 23, 7], [22, 1, 16, 8, 15], list(range(24)), [])


@pytest.fixture(params=["pyav", "decord"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "decord":
        pytest.importorskip("decord", reason="decord comes for Linux on x86-64 only")
    chosen: Backend = request.param
    return chosen


@pytest.mark.parametrize("name", BOTH)
def test_any_frames_in_any_order_are_those_of_the_stream(name: str, backend: Backend, tmp_path: Path) -> None:
    write_video(tmp_path / name, 24, encoding=BOTH[name])
    streamed = ticks_of(tmp_path / name)
    with open_clips(tmp_path / name, backend=backend) as clips:
        assert len(clips) == 24
        for order in ORDERS:
            frames = clips.get_frames(order)
            assert frames.shape == (len(order), 48, 80, 3)
            assert frames.dtype == np.uint8
            assert [read_number(frame) for frame in frames] == order
            assert clips.pts_us(order) == [streamed[index].pts_us for index in order]
            for frame, index in zip(frames, order, strict=True):
                assert np.array_equal(frame, streamed[index].rgb)


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith((".mp4", ".mkv", ".webm")) and "mpeg4" not in n])
def test_pyav_gives_any_frame_of_the_harder_files(name: str, tmp_path: Path) -> None:
    write_video(tmp_path / name, 24, encoding=FILES[name])
    streamed = ticks_of(tmp_path / name)
    order = [int(index) for index in np.random.default_rng(0).integers(0, len(streamed), 20)]
    with open_clips(tmp_path / name, backend="pyav") as clips:
        assert len(clips) == len(streamed)
        for frame, index in zip(clips.get_frames(order), order, strict=True):
            assert np.array_equal(frame, streamed[index].rgb)
        for index in order[:5]:
            assert np.array_equal(clips.get_frames([index])[0], streamed[index].rgb)
        assert clips.pts_us(order) == [streamed[index].pts_us for index in order]


def test_frames_come_out_upright_and_fitted(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 12, encoding=Encoding(rotation=270))
    streamed = ticks_of(tmp_path / "v.mp4", DecodeOptions(max_side=40))
    with open_clips(tmp_path / "v.mp4", backend="pyav", max_side=40) as clips:
        assert (clips.height, clips.width) == (40, 24)
        assert np.array_equal(clips.get_frames([9])[0], streamed[9].rgb)


def test_a_half_turn_comes_out_upright(backend: Backend, tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 12, encoding=Encoding(rotation=180))
    streamed = ticks_of(tmp_path / "v.mp4")
    with open_clips(tmp_path / "v.mp4", backend=backend) as clips:
        frame = clips.get_frames([9])[0]
    assert read_number(frame[::-1, ::-1]) == 9
    assert np.array_equal(frame, streamed[9].rgb)


def test_both_libraries_shrink_alike(tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="decord comes for Linux on x86-64 only")
    write_video(tmp_path / "v.mp4", 12)
    with (
        open_clips(tmp_path / "v.mp4", backend="pyav", max_side=40) as ours,
        open_clips(tmp_path / "v.mp4", backend="decord", max_side=40) as decords,
    ):
        difference = ours.get_frames([3, 11]).astype(int) - decords.get_frames([3, 11])
    assert np.abs(difference).mean() < 4.0


@pytest.mark.parametrize(
    ("name", "encoding", "message"),
    [
        ("turned.mp4", Encoding(rotation=90), "a quarter turn"),
        ("turned.mp4", Encoding(rotation=270), "a quarter turn"),
        ("mirrored.mp4", Encoding(hflip=True), "mirrors"),
        ("cut.mp4", FILES["h264_cut.mp4"], "edit list"),
        ("open.mp4", FILES["h264_open_groups.mp4"], "open groups"),
        ("open.mkv", FILES["hevc_open_groups.mp4"], "open groups"),
        ("v.ts", Encoding(), "do not tell one picture from the next"),
        ("v.avi", Encoding(codec="mpeg4"), "do not tell one picture from the next"),
    ],
)
def test_what_decord_gets_wrong_is_refused(name: str, encoding: Encoding, message: str, tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="decord comes for Linux on x86-64 only")
    write_video(tmp_path / name, 24, encoding=encoding)
    with pytest.raises(DecodeError, match=message):
        open_clips(tmp_path / name, backend="decord")


def test_decord_does_get_them_wrong(tmp_path: Path) -> None:
    """The refusals above have their reason; where this fails, one of them may be lifted."""
    decord = pytest.importorskip("decord", reason="decord comes for Linux on x86-64 only")
    decord.logging.set_level(decord.logging.QUIET)
    write_video(tmp_path / "cut.mp4", 24, encoding=FILES["h264_cut.mp4"])
    assert len(decord.VideoReader(str(tmp_path / "cut.mp4"))) != len(ticks_of(tmp_path / "cut.mp4"))
    write_video(tmp_path / "mirrored.mp4", 3, encoding=Encoding(hflip=True))
    mirrored = decord.VideoReader(str(tmp_path / "mirrored.mp4"))[0].asnumpy()
    assert np.abs(mirrored.astype(int) - ticks_of(tmp_path / "mirrored.mp4")[0].rgb).mean() > 20.0


def test_a_missing_decord_is_told_and_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    write_video(tmp_path / "v.mp4", 4)
    with pytest.raises(DecodeError, match="decord is not installed"):
        open_clips(tmp_path / "v.mp4", backend="decord")


def test_an_open_file_is_for_pyav_only(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 12)
    data = (tmp_path / "v.mp4").read_bytes()
    with open_clips(io.BytesIO(data), backend="pyav", name="v") as clips:
        assert read_number(clips.get_frames([11])[0]) == 11
    with pytest.raises(DecodeError, match="decord needs a local path"):
        open_clips(io.BytesIO(data), backend="decord", name="v")


@pytest.mark.parametrize("index", [-1, 12, 1000])
def test_an_index_outside_the_video_is_an_error(index: int, backend: Backend, tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 12)
    with open_clips(tmp_path / "v.mp4", backend=backend) as clips:
        with pytest.raises(IndexError, match=f"frame {index} of 12"):
            clips.get_frames([0, index])
        with pytest.raises(IndexError, match=f"frame {index} of 12"):
            clips.pts_us([index])


def test_a_folder_of_images_is_a_clip_too(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", [f"{i}.png" for i in range(12)])
    with open_clips(tmp_path / "f", backend="images", max_side=24, fps=10.0) as clips:
        assert len(clips) == 12
        assert [read_number(frame) for frame in clips.get_frames([11, 2, 2])] == [11, 2, 2]
        assert clips.get_frames([0]).shape == (1, 16, 24, 3)
        assert clips.pts_us([11]) == [1_100_000]


@pytest.mark.parametrize(("kind", "backend"), [("folder", "pyav"), ("folder", "decord"), ("file", "images")])
def test_a_backend_is_never_exchanged_for_another(kind: str, backend: Backend, tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", ["0.png"])
    write_video(tmp_path / "file", 2, format="mp4")
    with pytest.raises(DecodeError, match=f"backend '{backend}' cannot read"):
        open_clips(tmp_path / kind, backend=backend)


def test_a_damaged_frame_is_an_error_when_it_is_asked_for(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24)
    damage(tmp_path / "v.mp4", 8, np.random.default_rng(1).bytes(200))
    with open_clips(tmp_path / "v.mp4", backend="pyav") as clips:
        assert read_number(clips.get_frames([3])[0]) == 3
        with pytest.raises(DecodeError):
            clips.get_frames([8])
        assert read_number(clips.get_frames([20])[0]) == 20
