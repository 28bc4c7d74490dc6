"""Frames come out of a video in presentation order, each with its own number, index and time."""

from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.stream import Disposition

from pipeline.decode.probe import probe
from pipeline.decode.video import DecodeOptions, open_video
from pipeline.errors import DecodeError
from pipeline.ticks import Tick
from tests.drawn_video import (
    H264,
    Encoding,
    copy_packets,
    packet_places,
    read_number,
    set_edit_start,
    write_sound,
    write_video,
)

NTSC = Fraction(1001, 30000)
UNEVEN_MS = [0, 33, 66, 100, 101, 200, 233, 400, 1000, 1001, 1500, 7000]

FILES: dict[str, Encoding] = {
    "h264.mp4": H264,
    "h264_open_groups.mp4": Encoding(open_groups=True, b_frames=3),
    "h264_open_groups.mkv": Encoding(open_groups=True, b_frames=3),
    "h264_intra_refresh.mp4": Encoding(intra_refresh=True, b_frames=0),
    "h264_fragments.mp4": Encoding(muxer={"movflags": "frag_keyframe+empty_moov+delay_moov"}),
    "h264_cut.mp4": Encoding(pts=range(-5, 19), muxer={"avoid_negative_ts": "disabled"}),
    "h264_uneven.mkv": Encoding(time_base=Fraction(1, 1000), pts=[*UNEVEN_MS, *range(8000, 9200, 100)]),
    "h264_with_sound.mp4": Encoding(audio_seconds=2.0),
    "h264.avi": H264,
    "h264.ts": H264,
    "hevc_open_groups.mp4": Encoding(codec="libx265", open_groups=True, b_frames=3),
    "hevc_radl.mp4": Encoding(codec="libx265", parameters="radl=2", b_frames=3),
    "hevc.mkv": Encoding(codec="libx265"),
    "mpeg4.mp4": Encoding(codec="mpeg4"),
    "mpeg4.avi": Encoding(codec="mpeg4"),
    "mpeg2.mkv": Encoding(codec="mpeg2video"),
    "vp8.webm": Encoding(codec="libvpx"),
    "vp9.webm": Encoding(codec="libvpx-vp9"),
    "av1.mp4": Encoding(codec="libsvtav1"),
    "ffv1.mkv": Encoding(codec="ffv1"),
    "mjpeg.avi": Encoding(codec="mjpeg", pix_fmt="yuvj420p"),
}


def ticks_of(path: Path, options: DecodeOptions | None = None) -> list[Tick]:
    with open_video(path, options or DecodeOptions()) as stream:
        return list(stream)


@pytest.mark.parametrize("name", FILES)
def test_every_frame_comes_out_once_and_in_presentation_order(name: str, tmp_path: Path) -> None:
    write_video(tmp_path / name, 24, encoding=FILES[name])
    ticks = ticks_of(tmp_path / name)
    first = 5 if "cut" in name else 0
    assert [read_number(tick.rgb) for tick in ticks] == list(range(first, 24))
    assert [tick.frame_index for tick in ticks] == list(range(len(ticks)))


def test_b_frames_are_stored_out_of_order_and_come_out_in_order(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stored = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert stored != sorted(stored)
    assert [read_number(tick.rgb) for tick in ticks_of(tmp_path / "v.mp4")] == list(range(24))


@pytest.mark.parametrize(
    ("name", "time_base", "pts"),
    [
        ("ntsc.mp4", NTSC, range(12)),
        ("film.mp4", Fraction(1001, 24000), range(12)),
        ("uneven.mkv", Fraction(1, 1000), UNEVEN_MS),
        (
            "uneven.mp4",
            Fraction(1, 90_000),
            [0, 1, 2999, 3000, 6007, 90_001, 90_002, 99_999, 10**6, 10**7, 10**8, 10**9],
        ),
        ("late.mp4", Fraction(1, 25), range(7, 19)),
    ],
)
def test_times_are_the_streams_own_to_the_microsecond(
    name: str, time_base: Fraction, pts: list[int], tmp_path: Path
) -> None:
    seconds = write_video(tmp_path / name, 12, encoding=Encoding(time_base=time_base, pts=list(pts)))
    assert [tick.pts_us for tick in ticks_of(tmp_path / name)] == [round(time * 1_000_000) for time in seconds]


@pytest.mark.parametrize("num_cut", [1, 5, 8, 10])
def test_what_an_edit_list_cuts_off_is_no_frame(num_cut: int, tmp_path: Path) -> None:
    pts = range(-num_cut, 24 - num_cut)
    encoding = Encoding(pts=pts, muxer={"avoid_negative_ts": "disabled"})
    write_video(tmp_path / "v.mp4", 24, encoding=encoding)
    ticks = ticks_of(tmp_path / "v.mp4")
    assert [read_number(tick.rgb) for tick in ticks] == list(range(num_cut, 24))
    assert [(tick.frame_index, tick.pts_us) for tick in ticks] == [(i, i * 40_000) for i in range(24 - num_cut)]


def test_an_edit_that_was_moved_moves_the_first_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24, encoding=Encoding(b_frames=0))
    with av.open(str(tmp_path / "v.mp4")) as container:
        ticks_per_frame = container.streams.video[0].duration // 24
    set_edit_start(tmp_path / "v.mp4", 3 * ticks_per_frame)
    ticks = ticks_of(tmp_path / "v.mp4")
    assert [read_number(tick.rgb) for tick in ticks] == list(range(3, 24))
    assert ticks[0].frame_index == 0
    assert ticks[0].pts_us == 0


def test_avi_is_timed_by_its_slots_although_libav_tells_other_times(tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", 24)
    with av.open(str(tmp_path / "v.avi")) as container:
        told = [frame.pts for frame in container.decode(video=0)]
    assert told != sorted(told)
    assert [tick.pts_us for tick in ticks_of(tmp_path / "v.avi")] == [i * 40_000 for i in range(24)]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_a_recording_that_starts_inside_a_group_begins_with_its_first_whole_picture(codec: str, tmp_path: Path) -> None:
    write_video(tmp_path / "whole.ts", 24, encoding=Encoding(codec=codec, b_frames=0))
    second = packet_places(tmp_path / "whole.ts")[1][0]
    packet_bytes = 188
    (tmp_path / "cut.ts").write_bytes((tmp_path / "whole.ts").read_bytes()[second - second % packet_bytes :])
    ticks = ticks_of(tmp_path / "cut.ts")
    assert [read_number(tick.rgb) for tick in ticks] == list(range(8, 24))
    assert [tick.frame_index for tick in ticks] == list(range(16))


@pytest.mark.parametrize(("name", "codec"), [("v.webm", "libvpx-vp9"), ("v.mkv", "libx264"), ("v.mp4", "libx265")])
def test_packets_before_the_first_keyframe_are_no_frames(name: str, codec: str, tmp_path: Path) -> None:
    write_video(tmp_path / f"whole_{name}", 24, encoding=Encoding(codec=codec, b_frames=0))
    copy_packets(tmp_path / f"whole_{name}", tmp_path / name, first=3)
    ticks = ticks_of(tmp_path / name)
    assert [read_number(tick.rgb) for tick in ticks] == list(range(8, 24))
    assert [read_number(t.rgb) for t in ticks_of(tmp_path / name, DecodeOptions(start_frame=12))] == list(range(20, 24))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_recording_cut_at_an_open_group_counts_what_can_be_decoded(suffix: str, tmp_path: Path) -> None:
    whole = tmp_path / f"whole.{suffix}"
    write_video(whole, 40, encoding=Encoding(codec="libx265", open_groups=True, b_frames=3))
    with av.open(str(whole)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        second_key = [place for place, packet in enumerate(packets) if packet.is_keyframe][1]
        leading = sum(packet.pts < packets[second_key].pts for packet in packets[second_key:])
    assert leading > 0
    path = tmp_path / f"cut.{suffix}"
    copy_packets(whole, path, first=second_key)
    ticks = ticks_of(path)
    numbers = [read_number(tick.rgb) for tick in ticks]
    assert numbers == list(range(numbers[0], 40))
    assert numbers[0] > second_key
    assert probe(path, exact=True).num_frames == len(ticks)
    for start in range(0, len(ticks), 5):
        part = ticks_of(path, DecodeOptions(start_frame=start, end_frame=start + 2))
        assert [(t.frame_index, read_number(t.rgb)) for t in part] == list(enumerate(numbers))[start : start + 2]


def test_hidden_vp8_references_are_no_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "v.webm", 24, encoding=Encoding(codec="libvpx"))
    content = bytearray((tmp_path / "v.webm").read_bytes())
    for packet in (5, 13):
        first_byte = packet_places(tmp_path / "v.webm")[packet][0] + 4  # Behind the block's track, time and flags.
        assert content[first_byte] & 0x10
        content[first_byte] &= ~0x10  # RFC 6386, 9.1: show_frame.
    (tmp_path / "v.webm").write_bytes(content)
    shown = [number for number in range(24) if number not in (5, 13)]
    ticks = ticks_of(tmp_path / "v.webm")
    assert [read_number(tick.rgb) for tick in ticks] == shown
    assert probe(tmp_path / "v.webm", exact=True).num_frames == 22
    late = ticks_of(tmp_path / "v.webm", DecodeOptions(start_frame=18))
    assert [(t.frame_index, read_number(t.rgb)) for t in late] == list(enumerate(shown))[18:]


def test_a_stride_leaves_gaps_in_the_source_index(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24)
    ticks = ticks_of(tmp_path / "v.mp4", DecodeOptions(start_frame=2, end_frame=15, stride=5))
    assert [tick.frame_index for tick in ticks] == [2, 7, 12]
    assert [read_number(tick.rgb) for tick in ticks] == [2, 7, 12]
    assert [tick.pts_us for tick in ticks] == [80_000, 280_000, 480_000]


def test_a_range_past_the_end_stops_at_the_end(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 6)
    ticks = ticks_of(tmp_path / "v.mp4", DecodeOptions(start_frame=4, end_frame=100))
    assert [tick.frame_index for tick in ticks] == [4, 5]


def test_the_last_frame_of_a_range_is_the_last_one_decoded(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", 12, encoding=Encoding(codec="mjpeg", pix_fmt="yuvj420p"))
    data = (tmp_path / "v.mkv").read_bytes()
    with av.open(str(tmp_path / "v.mkv")) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    (tmp_path / "v.mkv").write_bytes(data[: places[6]])
    ticks = ticks_of(tmp_path / "v.mkv", DecodeOptions(end_frame=6))
    assert [tick.frame_index for tick in ticks] == list(range(6))


@pytest.mark.parametrize(("name", "expected"), [("v.mp4", 24), ("v.mkv", 24), ("v.avi", 24), ("v.ts", 24)])
def test_the_stream_tells_size_rate_and_length_before_the_first_frame(name: str, expected: int, tmp_path: Path) -> None:
    write_video(tmp_path / name, 24, height=48, width=80)
    with open_video(tmp_path / name, DecodeOptions(max_side=40)) as stream:
        assert (stream.height, stream.width) == (24, 40)
        assert (stream.source_height, stream.source_width) == (48, 80)
        assert stream.fps == 25.0
        assert stream.num_frames_estimate == expected
        assert next(stream).rgb.shape == (24, 40, 3)


def test_a_raw_stream_is_timed_by_the_rate_it_is_given(tmp_path: Path) -> None:
    write_video(tmp_path / "v.h264", 12, format="h264")
    with pytest.raises(DecodeError, match="Give fps"):
        open_video(tmp_path / "v.h264")
    ticks = ticks_of(tmp_path / "v.h264", DecodeOptions(fps=30000 / 1001))
    assert [read_number(tick.rgb) for tick in ticks] == list(range(12))
    assert [tick.pts_us for tick in ticks] == [round(i * NTSC * 1_000_000) for i in range(12)]


def test_a_rate_is_refused_for_a_video_that_has_its_own_times(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 4)
    with pytest.raises(DecodeError, match="has its own times"):
        open_video(tmp_path / "v.mp4", DecodeOptions(fps=10.0))


def test_times_that_run_backwards_are_an_error_or_a_gap(tmp_path: Path) -> None:
    stored = [0, 10, 20, 30, 25, 50, 60, 60, 80]
    encoding = Encoding(b_frames=0, time_base=Fraction(1, 1000), stored_pts=stored)
    write_video(tmp_path / "v.mkv", 9, encoding=encoding)
    with pytest.raises(DecodeError, match=r"frame 4: pts 25000 us is not after 30000 us"):
        ticks_of(tmp_path / "v.mkv")
    ticks = ticks_of(tmp_path / "v.mkv", DecodeOptions(on_bad_pts="drop"))
    assert [tick.frame_index for tick in ticks] == [0, 1, 2, 3, 5, 6, 8]
    assert [read_number(tick.rgb) for tick in ticks] == [0, 1, 2, 3, 5, 6, 8]
    assert [tick.pts_us for tick in ticks] == [0, 10_000, 20_000, 30_000, 50_000, 60_000, 80_000]


def test_missing_times_are_an_error_or_a_gap(tmp_path: Path) -> None:
    encoding = Encoding(pts=range(-3, 9), muxer={"avoid_negative_ts": "disabled"})
    write_video(tmp_path / "v.mkv", 12, encoding=encoding)
    with pytest.raises(DecodeError, match="frame 0: it has no presentation time"):
        ticks_of(tmp_path / "v.mkv")
    ticks = ticks_of(tmp_path / "v.mkv", DecodeOptions(on_bad_pts="drop"))
    assert [(tick.frame_index, read_number(tick.rgb)) for tick in ticks] == [(i, i) for i in range(3, 12)]


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    write_sound(tmp_path / "sound.mp4")
    with pytest.raises(DecodeError, match="no video stream, only audio"):
        open_video(tmp_path / "sound.mp4")


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    write_sound(tmp_path / "sound.mp4")
    write_video(tmp_path / "cover.mkv", 1, encoding=Encoding(codec="mjpeg", pix_fmt="yuvj420p"))
    with (
        av.open(str(tmp_path / "sound.mp4")) as sound,
        av.open(str(tmp_path / "cover.mkv")) as cover,
        av.open(str(tmp_path / "song.mp4"), "w") as song,
    ):
        sources = [sound.streams.audio[0], cover.streams.video[0]]
        streams = [song.add_stream_from_template(source) for source in sources]
        streams[1].disposition = Disposition.attached_pic
        for source, stream in zip(sources, streams, strict=True):
            for packet in source.container.demux(source):
                if packet.size:
                    packet.stream = stream
                    song.mux(packet)
    with av.open(str(tmp_path / "song.mp4")) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(DecodeError, match="no video stream, only audio, cover picture"):
        open_video(tmp_path / "song.mp4")
