"""Every way a file can be broken ends in one clear error, never in a short video, a hang or noise."""

import io
import os
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.decode.video import DecodeOptions, open_video
from pipeline.errors import DecodeError, StorageError
from tests.decode.test_video import ticks_of
from tests.drawn_video import H264, Encoding, packet_places, read_number, write_video

BLOCK_HEAD_BYTES = 4
"""A Matroska block begins with its track, time and flags; libav's offset points there."""

FRONT_INDEX = Encoding(muxer={"movflags": "faststart"})


def frames_until_error(path: Path, options: DecodeOptions | None = None) -> tuple[list[int], str]:
    """The numbers that came out, and what the error then said; fails if there was none."""
    numbers: list[int] = []
    with pytest.raises(DecodeError) as caught, open_video(path, options or DecodeOptions()) as stream:
        numbers.extend(read_number(tick.rgb) for tick in stream)
    return numbers, str(caught.value)


def damage(path: Path, packet: int, data: bytes) -> None:
    """Overwrite a packet from its middle on."""
    offset, size = packet_places(path)[packet]
    content = bytearray(path.read_bytes())
    data = data[: size - size // 2]
    content[offset + size // 2 : offset + size // 2 + len(data)] = data
    path.write_bytes(content)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"gone\.mp4: no such file"):
        open_video(tmp_path / "gone.mp4")


def test_a_store_address_is_told_to_be_opened_first() -> None:
    with pytest.raises(DecodeError, match="Open a remote file first"):
        open_video("s3://lake/v.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 2)
    (tmp_path / "v.mp4").chmod(0)
    with pytest.raises(DecodeError, match="no permission"):
        open_video(tmp_path / "v.mp4")


def test_a_refused_open_is_told_as_missing_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DecodeError, match="no permission to read it"):
        open_video(tmp_path / "v.mp4")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", r"empty\.mp4: the file is empty"),
        ("text.mp4", b"hello lake\n" * 50, "cannot be opened as a video"),
        ("noise.mp4", np.random.default_rng(0).bytes(5000), "cannot be opened as a video"),
        ("art.txt", b"hello lake\n" * 50, "cannot be opened as a video"),
        ("titles.srt", b"1\n00:00:01,000 --> 00:00:02,000\nhi\n\n", "no video stream, only subtitle"),
        ("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'></svg>", "no decoder"),
    ],
)
def test_what_is_no_video_says_so(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DecodeError, match=message):
        open_video(tmp_path / name)


def test_a_playlist_named_mp4_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("secret.mp4"), 3)
    Path("list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with av.open("list.mp4") as unguarded:
        assert len(list(unguarded.decode(video=0))) == 3
    with pytest.raises(DecodeError, match=r"list\.mp4: cannot be opened"):
        open_video("list.mp4")


def test_an_mp4_that_lost_its_index(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24)
    data = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DecodeError, match="has lost its index"):
        open_video(tmp_path / "v.mp4")


def test_a_video_without_a_picture(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 1)
    offset, size = packet_places(tmp_path / "v.mp4")[0]
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    content[offset : offset + size] = bytes(size)
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(DecodeError, match="frame 0"):
        open_video(tmp_path / "v.mp4")


@pytest.mark.parametrize("where", ["inside a packet", "between packets"])
@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("v.mp4", FRONT_INDEX),
        ("v.mp4", Encoding(b_frames=0, muxer={"movflags": "faststart"})),
        ("v.mp4", Encoding(codec="libx265", muxer={"movflags": "faststart"})),
        ("v.mp4", Encoding(codec="mpeg4", muxer={"movflags": "faststart"})),
        ("v.mov", Encoding(codec="mjpeg", pix_fmt="yuvj420p", muxer={"movflags": "faststart"})),
        ("v.mkv", H264),
        ("v.webm", Encoding(codec="libvpx-vp9")),
        ("v.avi", Encoding(codec="mpeg4")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.codec,
)
def test_a_file_cut_off_in_its_data_ends_in_an_error(name: str, encoding: Encoding, where: str, tmp_path: Path) -> None:
    write_video(tmp_path / name, 24, encoding=encoding)
    offset, size = packet_places(tmp_path / name)[14]
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: offset if where == "between packets" else offset + size // 2])
    numbers, message = frames_until_error(tmp_path / name)
    assert 8 <= len(numbers) <= 14
    assert numbers == list(range(len(numbers)))
    assert f"frame {len(numbers)}:" in message
    with pytest.raises(DecodeError, match="frame"):
        ticks_of(tmp_path / name, DecodeOptions(start_frame=9))


@pytest.mark.parametrize(("name", "num_lost"), [("v.avi", 1), ("v.avi", 7), ("v.mkv", 1)])
def test_a_file_that_lost_its_very_end_says_how_much(name: str, num_lost: int, tmp_path: Path) -> None:
    write_video(tmp_path / name, 12, encoding=Encoding(codec="mpeg4"))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-num_lost])
    _, message = frames_until_error(tmp_path / name)
    assert f"the file is {num_lost} bytes shorter than it says" in message


def test_half_a_packet_is_not_decoded(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24, encoding=Encoding(codec="mpeg4", b_frames=0, muxer={"movflags": "faststart"}))
    offset, size = packet_places(tmp_path / "v.mp4")[14]
    (tmp_path / "v.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[: offset + size - 4])
    numbers, message = frames_until_error(tmp_path / "v.mp4")
    assert numbers == list(range(14))
    assert "frame 14: the container marks the data as cut off or corrupt" in message


def test_a_fragmented_recording_cut_off_in_a_fragment_ends_in_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24, encoding=Encoding(muxer={"movflags": "frag_keyframe+empty_moov"}))
    offset, _ = packet_places(tmp_path / "v.mp4")[12]
    data = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(data[:offset])
    numbers, message = frames_until_error(tmp_path / "v.mp4")
    assert numbers == list(range(len(numbers)))
    assert "the file ends after 12 of 16 packets in its index" in message


def test_a_live_recording_that_promises_nothing_ends_where_its_data_ends(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", 24, encoding=Encoding(codec="mjpeg", pix_fmt="yuvj420p", muxer={"live": "1"}))
    offset, size = packet_places(tmp_path / "v.mkv")[15]
    data = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "v.mkv").write_bytes(data[: offset + BLOCK_HEAD_BYTES + size])
    assert [read_number(tick.rgb) for tick in ticks_of(tmp_path / "v.mkv")] == list(range(16))


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "libvpx-vp9", "libsvtav1", "mjpeg"])
def test_a_packet_of_zeros_in_mid_stream_is_an_error(codec: str, tmp_path: Path) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    write_video(tmp_path / "v.mkv", 24, encoding=Encoding(codec=codec, pix_fmt=pix_fmt))
    offset, size = packet_places(tmp_path / "v.mkv")[10]
    content = bytearray((tmp_path / "v.mkv").read_bytes())
    offset += BLOCK_HEAD_BYTES
    content[offset : offset + size] = bytes(size)
    (tmp_path / "v.mkv").write_bytes(content)
    numbers, message = frames_until_error(tmp_path / "v.mkv")
    assert numbers == list(range(len(numbers)))
    assert len(numbers) <= 11
    assert f"frame {len(numbers)}" in message


def test_a_last_packet_without_a_picture_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 12, encoding=Encoding(codec="libsvtav1"))
    offset, size = packet_places(tmp_path / "v.mp4")[11]
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    content[offset : offset + size] = bytes(size)
    (tmp_path / "v.mp4").write_bytes(content)
    numbers, message = frames_until_error(tmp_path / "v.mp4")
    assert numbers == list(range(11))
    assert "the decoder gave no picture for 1 packets" in message


def test_a_matroska_track_that_stops_short_of_its_duration_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", 24, encoding=Encoding(codec="mjpeg", pix_fmt="yuvj420p"))
    places = packet_places(tmp_path / "v.mkv")
    start, end = places[14][0] - BLOCK_HEAD_BYTES, places[23][0] + BLOCK_HEAD_BYTES + places[23][1]
    content = bytearray((tmp_path / "v.mkv").read_bytes())
    content[start:end] = bytes(end - start)
    (tmp_path / "v.mkv").write_bytes(content)
    numbers, message = frames_until_error(tmp_path / "v.mkv")
    assert numbers == list(range(14))
    assert "shown at 520000 us, but the track claims to last until 960000 us" in message


def test_noise_inside_a_packet_is_an_error_where_the_decoder_sees_it(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24)
    damage(tmp_path / "v.mp4", 8, np.random.default_rng(1).bytes(200))
    numbers, _ = frames_until_error(tmp_path / "v.mp4")
    assert numbers == list(range(8))


def test_a_damaged_end_does_not_spoil_a_range_before_it(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24)
    damage(tmp_path / "v.mp4", 16, np.random.default_rng(1).bytes(200))
    assert [read_number(t.rgb) for t in ticks_of(tmp_path / "v.mp4", DecodeOptions(end_frame=14))] == list(range(14))


def test_an_error_names_the_caller_s_name(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24, encoding=FRONT_INDEX)
    data = (tmp_path / "v.mp4").read_bytes()
    with (
        pytest.raises(DecodeError, match=r"^s3://lake/v\.mp4, frame \d+:"),
        open_video(io.BytesIO(data[: len(data) // 2]), name="s3://lake/v.mp4") as stream,
    ):
        list(stream)


def test_a_store_that_fails_is_a_storage_error_that_may_be_tried_again(tmp_path: Path) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > len(self.getvalue()) // 2:
                raise TimeoutError("the store did not answer")
            return super().read(min(size or 0, 4096))

    write_video(tmp_path / "v.mp4", 60, height=120, width=160, encoding=FRONT_INDEX)
    with (
        pytest.raises(StorageError, match="did not answer") as caught,
        open_video(Failing((tmp_path / "v.mp4").read_bytes()), name="v") as stream,
    ):
        list(stream)
    assert caught.value.retryable


def test_a_store_that_fails_to_seek_is_a_storage_error_too(tmp_path: Path) -> None:
    class Lost(io.BytesIO):
        num_seeks_left = 2

        def seek(self, offset: int, whence: int = 0) -> int:
            self.num_seeks_left -= 1
            if self.num_seeks_left < 0:
                raise TimeoutError("the store did not answer")
            return super().seek(offset, whence)

    write_video(tmp_path / "v.mkv", 24)
    data = (tmp_path / "v.mkv").read_bytes()
    for num_seeks in range(6):
        file = Lost(data)
        file.num_seeks_left = num_seeks
        with (
            pytest.raises(StorageError, match="did not answer"),
            open_video(file, DecodeOptions(start_frame=20), name="v") as stream,
        ):
            list(stream)


def test_a_domain_error_of_the_store_comes_through_as_it_is(tmp_path: Path) -> None:
    lost = StorageError("s3://lake/v.mp4: the etag changed")

    class Changed(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise lost

    with pytest.raises(StorageError) as caught:
        open_video(Changed(b"x" * 100), name="v")
    assert caught.value is lost


@pytest.mark.parametrize("name", ["v.mp4", "f.mp4", "v.mkv", "v.ts", "v.avi", "v.webm"])
def test_any_damage_ends_in_a_domain_error_or_in_whole_frames(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encodings = {
        "v.mp4": FRONT_INDEX,
        "f.mp4": Encoding(muxer={"movflags": "frag_keyframe+empty_moov"}),
        "v.webm": Encoding(codec="libvpx-vp9"),
    }
    write_video(tmp_path / name, 12, height=32, width=48, encoding=encodings.get(name, H264))
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(7)
    num_errors = 0
    for attempt in range(40):
        broken = bytearray(whole)
        place = int(rng.integers(0, len(whole)))
        if attempt % 2:
            del broken[place : place + int(rng.integers(1, 300))]
        else:
            broken[place : place + 40] = rng.bytes(40)
        try:
            with open_video(io.BytesIO(bytes(broken)), DecodeOptions(start_frame=attempt % 3), name=name) as stream:
                for tick in stream:
                    assert tick.rgb.shape[2] == 3
        except (DecodeError, StorageError):
            num_errors += 1
    assert num_errors > 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out == ""
