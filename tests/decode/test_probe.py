"""What a video is can be told before it is decoded, and the exact count is that of the full decode."""

from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.decode.probe import probe
from pipeline.errors import DecodeError
from tests.decode.test_frame_folder import write_folder
from tests.decode.test_video import FILES, ticks_of
from tests.drawn_video import Encoding, packet_places, write_sound, write_video


@pytest.mark.parametrize("name", FILES)
def test_the_exact_count_is_that_of_the_full_decode(name: str, tmp_path: Path) -> None:
    write_video(tmp_path / name, 24, encoding=FILES[name])
    facts = probe(tmp_path / name, exact=True)
    assert facts.num_frames == len(ticks_of(tmp_path / name))
    assert facts.num_frames_is_exact


@pytest.mark.parametrize("name", ["h264.mp4", "h264_cut.mp4", "vp9.webm", "mpeg4.avi", "h264.ts"])
def test_the_estimate_is_right_for_a_steady_rate(name: str, tmp_path: Path) -> None:
    write_video(tmp_path / name, 24, encoding=FILES[name])
    facts = probe(tmp_path / name)
    assert facts.num_frames == len(ticks_of(tmp_path / name))
    assert not facts.num_frames_is_exact


def test_the_facts_of_an_mp4(tmp_path: Path) -> None:
    encoding = Encoding(time_base=Fraction(1001, 30000), fps=30, pix_fmt="yuv420p10le")
    write_video(tmp_path / "v.mp4", 24, height=48, width=80, encoding=encoding)
    facts = probe(tmp_path / "v.mp4")
    assert (facts.height, facts.width, facts.rotation_degrees, facts.is_mirrored) == (48, 80, 0, False)
    assert facts.fps == pytest.approx(30000 / 1001, rel=1e-3)
    assert facts.duration_us == pytest.approx(24 * 1001 / 30000 * 1e6, abs=40_000)
    assert (facts.codec, facts.pix_fmt) == ("h264", "yuv420p10le")
    assert facts.num_bytes == (tmp_path / "v.mp4").stat().st_size


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
def test_the_turn_is_told_and_the_size_is_upright(degrees: int, hflip: bool, tmp_path: Path) -> None:
    encoding = Encoding(rotation=degrees, hflip=hflip)
    write_video(tmp_path / "v.mp4", 2, height=48, width=80, encoding=encoding)
    facts = probe(tmp_path / "v.mp4")
    assert (facts.rotation_degrees, facts.is_mirrored) == (degrees, hflip)
    assert (facts.height, facts.width) == ((80, 48) if degrees in (90, 270) else (48, 80))


def test_a_raw_stream_tells_no_rate_of_its_own(tmp_path: Path) -> None:
    write_video(tmp_path / "v.h264", 12, format="h264")
    facts = probe(tmp_path / "v.h264", exact=True, fps=50.0)
    assert (facts.fps, facts.num_frames, facts.duration_us) == (50.0, 12, None)


def test_the_facts_of_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", ["0.png", "1.png", "2.png"])
    facts = probe(tmp_path / "f", fps=10.0)
    assert (facts.height, facts.width, facts.num_frames, facts.fps) == (32, 48, 3, 10.0)
    assert facts.duration_us == 300_000
    assert facts.num_bytes == sum(file.stat().st_size for file in (tmp_path / "f").iterdir())


def test_a_caller_s_file_is_probed_and_stays_open(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", 12)
    with (tmp_path / "v.mkv").open("rb") as file:
        assert probe(file, exact=True).num_frames == 12
        assert not file.closed


def test_a_count_of_a_file_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 24, encoding=Encoding(muxer={"movflags": "faststart"}))
    offset, _ = packet_places(tmp_path / "v.mp4")[14]
    (tmp_path / "v.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:offset])
    assert probe(tmp_path / "v.mp4").num_frames == 24
    with pytest.raises(DecodeError, match="the file ends after 14 of 24 packets"):
        probe(tmp_path / "v.mp4", exact=True)


def test_sound_alone_has_no_facts(tmp_path: Path) -> None:
    write_sound(tmp_path / "sound.mp4")
    with pytest.raises(DecodeError, match="no video stream"):
        probe(tmp_path / "sound.mp4")
