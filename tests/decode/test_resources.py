"""Streams hold little memory, and give back files and threads however they end."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.decode.read_ahead import ReadAhead
from pipeline.decode.video import DecodeOptions, VideoStream, open_video
from pipeline.errors import DecodeError
from tests.drawn_video import Encoding, packet_places, read_number, write_video

LIGHT = Encoding(codec="mpeg4", group=12, b_frames=0)


def open_paths() -> set[str]:
    return {file.path for file in psutil.Process().open_files()}


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.fixture
def video(tmp_path: Path) -> Iterator[Path]:
    write_video(tmp_path / "v.mp4", 40, encoding=LIGHT)
    yield tmp_path / "v.mp4"
    assert readers() == []
    assert str(tmp_path / "v.mp4") not in open_paths()


def is_held(path: Path) -> bool:
    return str(path) in open_paths()


@pytest.mark.parametrize("read_ahead_frames", [0, 1, 4, 100])
def test_reading_ahead_changes_nothing_that_comes_out(read_ahead_frames: int, video: Path) -> None:
    with open_video(video, read_ahead_frames=read_ahead_frames) as stream:
        # A reader that may run to the end can be done, and have let go, by now.
        assert is_held(video) or read_ahead_frames > 40
        ticks = list(stream)
    assert [read_number(tick.rgb) for tick in ticks] == list(range(40))


@pytest.mark.parametrize("read_ahead_frames", [0, 4])
def test_leaving_the_block_early_gives_back_file_and_thread(read_ahead_frames: int, video: Path) -> None:
    with open_video(video, read_ahead_frames=read_ahead_frames) as stream:
        assert next(stream).frame_index == 0
        assert is_held(video)
    assert not is_held(video)
    assert readers() == []
    with pytest.raises(DecodeError, match="closed before its end"):
        next(stream)
    stream.close()


@pytest.mark.parametrize("read_ahead_frames", [0, 4])
def test_the_end_gives_back_file_and_thread_and_stays_the_end(read_ahead_frames: int, video: Path) -> None:
    stream = open_video(video, read_ahead_frames=read_ahead_frames)
    assert len(list(stream)) == 40
    assert not is_held(video)
    assert readers() == []
    assert list(stream) == []


@pytest.mark.parametrize("read_ahead_frames", [0, 4])
def test_an_abandoned_stream_gives_back_file_and_thread(read_ahead_frames: int, video: Path) -> None:
    def look_at_one() -> int:
        for tick in open_video(video, read_ahead_frames=read_ahead_frames):
            return tick.frame_index
        return -1

    assert look_at_one() == 0
    gc.collect()
    assert not is_held(video)
    assert readers() == []


@pytest.mark.parametrize("read_ahead_frames", [0, 4])
def test_a_stream_that_was_never_read_gives_back_file_and_thread(read_ahead_frames: int, video: Path) -> None:
    stream = open_video(video, read_ahead_frames=read_ahead_frames)
    assert is_held(video)
    del stream
    gc.collect()
    assert not is_held(video)
    assert readers() == []


@pytest.mark.parametrize("read_ahead_frames", [0, 4])
def test_an_error_comes_at_its_frame_and_gives_back_file_and_thread(read_ahead_frames: int, video: Path) -> None:
    offset, size = packet_places(video)[20]
    content = bytearray(video.read_bytes())
    content[offset : offset + size] = bytes(size)
    video.write_bytes(content)
    stream = open_video(video, read_ahead_frames=read_ahead_frames)
    numbers: list[int] = []
    with pytest.raises(DecodeError, match="frame 20"):
        numbers.extend(read_number(tick.rgb) for tick in iter(lambda: next(stream), None))
    assert not is_held(video)
    assert readers() == []
    with pytest.raises(DecodeError, match="frame 20"):
        next(stream)


def test_a_file_that_cannot_be_opened_is_not_held(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello lake\n" * 50)
    for start_frame in (0, 5):
        with pytest.raises(DecodeError):
            open_video(tmp_path / "text.mp4", DecodeOptions(start_frame=start_frame))
    assert not is_held(tmp_path / "text.mp4")


def test_a_start_beyond_the_end_holds_nothing(video: Path) -> None:
    with pytest.raises(DecodeError):
        open_video(video, DecodeOptions(start_frame=99), read_ahead_frames=4)


def test_the_caller_s_file_stays_open(video: Path) -> None:
    with video.open("rb") as file:
        with open_video(file) as stream:
            next(stream)
        assert not file.closed
        file.seek(0)
        assert len(file.read()) == video.stat().st_size


@pytest.mark.parametrize("num_items", [1, 3])
def test_read_ahead_is_bounded_by_what_was_asked_for(num_items: int) -> None:
    made, taken, most = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal made, most
        for item in range(50):
            made += 1
            most = max(most, made - taken)
            yield item

    ahead = ReadAhead(items(), num_items=num_items, release=lambda: None, name="test")
    for expected in range(50):
        assert ahead.next() == expected
        taken += 1
    with pytest.raises(StopIteration):
        ahead.next()
    ahead.stop()
    assert made == 50
    # Waiting in the queue, one in the making, and one that the reader holds but has not yet counted.
    assert most <= num_items + 2


def test_a_thread_that_waits_for_room_is_freed() -> None:
    released = threading.Event()
    ahead = ReadAhead(iter(range(1000)), num_items=1, release=released.set, name="test")
    assert ahead.next() == 0
    ahead.stop()
    assert released.is_set()
    assert readers() == []


def test_many_videos_can_be_open_at_once(video: Path) -> None:
    streams = [open_video(video, read_ahead_frames=2) for _ in range(8)]
    for _ in range(3):
        assert len({next(stream).frame_index for stream in streams}) == 1
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("read_ahead_frames", [0, 4])
def test_memory_does_not_grow_with_the_length_of_the_video(read_ahead_frames: int, tmp_path: Path) -> None:
    height, width, num_frames = 240, 320, 1200
    write_video(tmp_path / "v.mp4", num_frames, height=height, width=width, encoding=LIGHT)
    with open_video(tmp_path / "v.mp4", read_ahead_frames=read_ahead_frames) as stream:
        _skip(stream, 50)
        early_bytes = psutil.Process().memory_info().rss
        _skip(stream, num_frames - 50)
        late_bytes = psutil.Process().memory_info().rss
    kept_all = (num_frames - 50) * height * width * 3
    assert late_bytes - early_bytes < kept_all / 8


def _skip(stream: VideoStream, num_frames: int) -> None:
    for _ in range(num_frames):
        next(stream)
