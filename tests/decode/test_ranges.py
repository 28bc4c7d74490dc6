"""A range of a video is the slice of its full decode: same pixels, index and time, and little of the file is read."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.decode.media_file import open_media
from pipeline.decode.packet_entry import START, find_entry
from pipeline.decode.video import DecodeOptions, open_video
from pipeline.errors import DecodeError
from tests.decode.test_video import FILES, ticks_of
from tests.drawn_video import Encoding, read_number, write_pictures, write_video


class CountingFile(io.BytesIO):
    """An open file that counts what is read from it, as a store would bill it."""

    num_bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.num_bytes_read += len(data)
        return data


@pytest.mark.parametrize("name", FILES)
def test_a_range_is_the_slice_of_the_full_decode(name: str, tmp_path: Path) -> None:
    write_video(tmp_path / name, 24, encoding=FILES[name])
    full = ticks_of(tmp_path / name)
    for start in range(len(full)):
        part = ticks_of(tmp_path / name, DecodeOptions(start_frame=start, end_frame=start + 3))
        expected = full[start : start + 3]
        assert [(t.frame_index, t.pts_us) for t in part] == [(t.frame_index, t.pts_us) for t in expected]
        assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(part, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "is_found"),
    [
        ("h264.mp4", True),
        ("h264_open_groups.mp4", True),
        ("h264_open_groups.mkv", True),
        ("h264_fragments.mp4", True),
        ("h264_cut.mp4", True),
        ("h264_uneven.mkv", True),
        ("hevc_open_groups.mp4", True),
        ("vp8.webm", True),
        ("vp9.webm", True),
        ("av1.mp4", True),
        ("h264.ts", False),
        ("mpeg4.mp4", False),
        ("mpeg4.avi", False),
    ],
)
def test_decoding_starts_at_a_late_keyframe_where_packets_are_pictures(
    name: str, is_found: bool, tmp_path: Path
) -> None:
    write_video(tmp_path / name, 24, encoding=FILES[name])
    media = open_media(tmp_path / name)
    entry = find_entry(media, 18)
    media.close()
    assert (entry is not START) is is_found
    if is_found:
        assert 8 <= entry.frame_index <= 18


def test_groups_are_open_in_the_files_that_say_so(tmp_path: Path) -> None:
    for name in ("h264_open_groups.mp4", "hevc_open_groups.mp4", "h264_open_groups.mkv"):
        write_video(tmp_path / name, 24, encoding=FILES[name])
        with av.open(str(tmp_path / name)) as container:
            packets = [(p.pts, p.is_keyframe) for p in container.demux(video=0) if p.size]
        keys = [place for place, (_, is_key) in enumerate(packets) if is_key]
        assert any(packets[place + 1][0] < packets[place][0] for place in keys[1:])


def test_an_intra_refresh_is_no_place_to_start_although_it_is_marked_as_one(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24, encoding=FILES["h264_intra_refresh.mp4"])
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert sum(p.is_keyframe for p in container.demux(video=0)) > 1
    assert [read_number(t.rgb) for t in ticks_of(tmp_path / "v.mp4", DecodeOptions(start_frame=18))] == [*range(18, 24)]


def test_a_range_of_a_remote_mp4_reads_little_of_it(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (120, 160, 3), dtype=np.uint8) for i in range(60)]
    write_pictures(tmp_path / "v.mp4", pictures, encoding=Encoding(group=10, muxer={"movflags": "faststart"}))
    file = CountingFile((tmp_path / "v.mp4").read_bytes())
    with open_video(file, DecodeOptions(start_frame=45, end_frame=48), name="s3://lake/v.mp4") as stream:
        assert [tick.frame_index for tick in stream] == [45, 46, 47]
    assert not file.closed
    assert file.num_bytes_read < len(file.getvalue()) / 2


def test_the_first_frames_of_a_remote_mp4_read_little_of_it(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (120, 160, 3), dtype=np.uint8) for i in range(60)]
    write_pictures(tmp_path / "v.mp4", pictures, encoding=Encoding(group=10, muxer={"movflags": "faststart"}))
    file = CountingFile((tmp_path / "v.mp4").read_bytes())
    with open_video(file, DecodeOptions(end_frame=5)) as stream:
        assert len(list(stream)) == 5
    assert file.num_bytes_read < len(file.getvalue()) / 3


def test_a_whole_remote_video_is_read_about_once(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", 60, height=120, width=160)
    file = CountingFile((tmp_path / "v.mkv").read_bytes())
    with open_video(file) as stream:
        assert [read_number(tick.rgb) for tick in stream] == list(range(60))
    assert file.num_bytes_read < 2 * len(file.getvalue()) + 2 * 64 * 1024


def test_a_file_that_cannot_seek_is_streamed_from_its_start(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, offset: int, whence: int = 0) -> int:
            raise io.UnsupportedOperation("a pipe cannot seek")

    write_video(tmp_path / "v.mkv", 24)
    with open_video(Pipe((tmp_path / "v.mkv").read_bytes()), DecodeOptions(start_frame=20)) as stream:
        assert [read_number(tick.rgb) for tick in stream] == [20, 21, 22, 23]


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "h264.ts", "mpeg4.avi"])
@pytest.mark.parametrize("start_frame", [24, 25, 1000])
def test_a_start_beyond_the_end_is_an_error(name: str, start_frame: int, tmp_path: Path) -> None:
    write_video(tmp_path / name, 24, encoding=FILES[name])
    with pytest.raises(DecodeError, match=rf"start_frame {start_frame}, the video holds 24"):
        open_video(tmp_path / name, DecodeOptions(start_frame=start_frame))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start_frame": -1}, "start_frame -1"),
        ({"stride": 0}, "stride 0"),
        ({"start_frame": 5, "end_frame": 5}, r"\[5, 5\)"),
        ({"start_frame": 5, "end_frame": 4}, r"\[5, 4\)"),
        ({"max_side": 0}, "max_side 0"),
        ({"fps": 0.0}, "fps 0.0"),
        ({"fps": float("nan")}, "fps nan"),
        ({"on_bad_pts": "ignore"}, "'ignore'"),
    ],
)
def test_options_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        DecodeOptions(**values)  # type: ignore[arg-type]


def test_real_clips_give_the_same_frames_from_the_middle(clips_dir: Path) -> None:
    full = ticks_of(clips_dir / "bedroom.mp4", DecodeOptions(end_frame=80, max_side=160))
    part = ticks_of(clips_dir / "bedroom.mp4", DecodeOptions(start_frame=75, end_frame=80, max_side=160))
    assert [(t.frame_index, t.pts_us) for t in part] == [(t.frame_index, t.pts_us) for t in full[75:]]
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(part, full[75:], strict=True))
