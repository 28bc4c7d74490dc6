"""Inputs that cannot be segmented, each with the outcome that is documented for it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.drawn_video import Encoding, packet_places, write_sound, write_video

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadVideo:
    """A row whose video (or prompt) fails: `make(folder)` writes what is needed and returns the row's columns."""

    name: str
    make: Callable[[Path], Row]
    stage: str
    error_class: str
    told: str


def _row(uri: str, **columns: Any) -> Row:
    return {"video_uri": uri, "expressions": ["the red disc"], **columns}


def _good(folder: Path, name: str) -> str:
    path = folder / name
    if not path.exists():
        write_video(path, 12, height=48, width=80)
    return name


def _missing(folder: Path) -> Row:
    return _row("nowhere.mp4")


def _empty(folder: Path) -> Row:
    (folder / "empty.mp4").touch()
    return _row("empty.mp4")


def _without_index(folder: Path) -> Row:
    source = folder / _good(folder, "to_cut.mp4")
    data = source.read_bytes()
    (folder / "no_index.mp4").write_bytes(data[: data.index(b"moov") - 4])
    return _row("no_index.mp4")


def _cut_in_the_middle(folder: Path) -> Row:
    path = folder / "cut.mp4"
    write_video(path, 48, height=48, width=80, encoding=Encoding(muxer={"movflags": "faststart"}))
    places = packet_places(path)
    path.write_bytes(path.read_bytes()[: places[len(places) // 2][0]])
    return _row("cut.mp4")


def _text(folder: Path) -> Row:
    (folder / "text.mp4").write_text("this is not a video\n" * 40)
    return _row("text.mp4")


def _sound_only(folder: Path) -> Row:
    write_sound(folder / "sound.mp4")
    return _row("sound.mp4")


def _damaged(folder: Path) -> Row:
    path = folder / "damaged.mp4"
    write_video(path, 24, height=48, width=80)
    data = bytearray(path.read_bytes())
    for offset, size in packet_places(path)[6:18]:
        data[offset : offset + size] = b"\x5a" * size
    path.write_bytes(bytes(data))
    return _row("damaged.mp4")


def _empty_folder(folder: Path) -> Row:
    (folder / "no_frames").mkdir(exist_ok=True)
    return _row("no_frames")


def _two_sizes(folder: Path) -> Row:
    frames = folder / "two_sizes"
    frames.mkdir(exist_ok=True)
    for index, size in enumerate([(48, 80), (48, 80), (80, 48)]):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(frames / f"{index}.png")
    return _row("two_sizes")


def _no_permission(folder: Path) -> Row:
    path = folder / _good(folder, "locked.mp4")
    path.chmod(0)
    return _row("locked.mp4")


def _sentence_of_600_words(folder: Path) -> Row:
    return {"video_uri": _good(folder, "long_sentence.mp4"), "expressions": ["disc " * 600]}


def _of_good(folder: Path, name: str, **columns: Any) -> Row:
    return _row(_good(folder, f"{name}.mp4"), **columns)


BAD_VIDEOS = [
    BadVideo(name="nowhere", make=_missing, stage="open", error_class="DecodeError", told="no such"),
    BadVideo(name="empty", make=_empty, stage="decode", error_class="DecodeError", told="empty"),
    BadVideo(name="no_index", make=_without_index, stage="decode", error_class="DecodeError", told="no_index.mp4"),
    BadVideo(name="cut", make=_cut_in_the_middle, stage="decode", error_class="DecodeError", told="cut.mp4"),
    BadVideo(name="text", make=_text, stage="decode", error_class="DecodeError", told="text.mp4"),
    BadVideo(name="sound", make=_sound_only, stage="decode", error_class="DecodeError", told="sound.mp4"),
    BadVideo(name="damaged", make=_damaged, stage="decode", error_class="DecodeError", told="damaged.mp4"),
    BadVideo(name="no_frames", make=_empty_folder, stage="decode", error_class="DecodeError", told="no_frames"),
    BadVideo(name="two_sizes", make=_two_sizes, stage="decode", error_class="DecodeError", told="2.png"),
    BadVideo(
        name="past_the_end",
        make=lambda folder: _of_good(folder, "past_the_end", start_frame=500),
        stage="decode",
        error_class="DecodeError",
        told="500",
    ),
    BadVideo(
        name="long_sentence", make=_sentence_of_600_words, stage="prompt", error_class="PromptError", told="602 tokens"
    ),
    BadVideo(
        name="stride_0",
        make=lambda folder: _of_good(folder, "stride_0", stride=0),
        stage="manifest",
        error_class="ManifestError",
        told="stride",
    ),
    BadVideo(
        name="negative_start",
        make=lambda folder: _of_good(folder, "negative_start", start_frame=-3),
        stage="manifest",
        error_class="ManifestError",
        told="start_frame",
    ),
    BadVideo(
        name="empty_range",
        make=lambda folder: _of_good(folder, "empty_range", start_frame=6, end_frame=6),
        stage="manifest",
        error_class="ManifestError",
        told="end_frame",
    ),
    BadVideo(
        name="no_sentence",
        make=lambda folder: {"video_uri": _good(folder, "no_sentence.mp4"), "expressions": ["  "]},
        stage="manifest",
        error_class="ManifestError",
        told="expressions",
    ),
    BadVideo(
        name="misspelt",
        make=lambda folder: _of_good(folder, "misspelt", strde=2),
        stage="manifest",
        error_class="ManifestError",
        told="stride",
    ),
    BadVideo(
        name="strange_scheme",
        make=lambda folder: _row("gopher://host/video.mp4"),
        stage="manifest",
        error_class="ManifestError",
        told="gopher",
    ),
]
"""What fails in a run that goes on; none of it keeps the good videos from being committed."""

NO_PERMISSION = BadVideo(name="locked", make=_no_permission, stage="open", error_class="DecodeError", told="ermission")
"""Not refused to the superuser, so it is run apart where the tests run as one."""


def write_bad_manifest(folder: Path) -> Path:
    """All of BAD_VIDEOS between two good videos, and one line that is no JSON."""
    rows: list[Row] = [_of_good(folder, "first", video_id="good_first")]
    rows += [{"video_id": bad.name, **bad.make(folder)} for bad in BAD_VIDEOS]
    rows.append(_of_good(folder, "last", video_id="good_last"))
    lines = [json.dumps(row) for row in rows]
    lines.insert(3, '{"video_uri": "broken')
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class BadCommand:
    """A whole command that is refused before anything runs: `make(folder)` returns its flags besides --output."""

    name: str
    make: Callable[[Path], list[str]]
    code: int
    told: str


def _manifest(text: str | bytes, suffix: str = ".jsonl") -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        path = folder / f"manifest{suffix}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["--manifest", str(path)]

    return make


def _with_good_manifest(*flags: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        return [*_manifest(json.dumps(_of_good(folder, "good")))(folder), *flags]

    return make


def _config(text: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "job.yaml").write_text(text)
        return _with_good_manifest("--config", str(folder / "job.yaml"))(folder)

    return make


def _twice(folder: Path) -> list[str]:
    _good(folder, "a.mp4")
    (folder / "sub").mkdir()
    shutil.copy(folder / "a.mp4", folder / "sub" / "a.mp4")
    return _manifest(json.dumps(_row("a.mp4")) + "\n" + json.dumps(_row("sub/a.mp4")))(folder)


BAD_COMMANDS = [
    BadCommand(
        name="no manifest", make=lambda folder: ["--manifest", str(folder / "no.jsonl")], code=2, told="no.jsonl"
    ),
    BadCommand(name="folder as manifest", make=lambda folder: ["--manifest", str(folder)], code=2, told="anifest"),
    BadCommand(name="manifest without rows", make=_manifest(""), code=2, told="no rows"),
    BadCommand(name="not UTF-8", make=_manifest(b'{"video_uri": "caf\xe9.mp4"}'), code=2, told="UTF-8"),
    BadCommand(
        name="bad CSV quoting",
        make=_manifest('video_uri,expressions\na.mp4,"the red\nb.mp4,"the "blue" one"\n', ".csv"),
        code=2,
        told="quot",
    ),
    BadCommand(
        name="unknown CSV column",
        make=_manifest("video_uri,expresions\na.mp4,the red disc\n", ".csv"),
        code=2,
        told="expressions",
    ),
    BadCommand(name="no video_uri column", make=_manifest("expressions\nred\n", ".csv"), code=2, told="video_uri"),
    BadCommand(name="unknown suffix", make=_manifest("{}", ".txt"), code=2, told=".jsonl"),
    BadCommand(name="an id twice", make=_twice, code=2, told="video_id"),
    BadCommand(
        name="a bad row under --strict",
        make=lambda folder: [*_manifest(json.dumps(_row("a.mp4", stride=0)))(folder), "--strict"],
        code=2,
        told="stride",
    ),
    BadCommand(name="unknown flag", make=_with_good_manifest("--num-actor", "2"), code=2, told="--num-actors"),
    BadCommand(name="unknown key in the config", make=_config("num_actor: 2"), code=2, told="num_actors"),
    BadCommand(name="bad value in the config", make=_config("num_actors: many"), code=2, told="num_actors"),
    BadCommand(name="bad shard", make=_with_good_manifest("--shard", "2/2"), code=2, told="shard"),
    BadCommand(name="bad run id", make=_with_good_manifest("--run-id", "a/b"), code=2, told="run id"),
    BadCommand(name="unknown store", make=_with_good_manifest("--output", "gopher://lake"), code=2, told="gopher"),
    BadCommand(name="no such model", make=_with_good_manifest("--model", "samwise-nope"), code=5, told="samwise-nope"),
    BadCommand(
        name="weights that are not here",
        make=_with_good_manifest("--model", "samwise-mevis", "--offline"),
        code=5,
        told="samwise",
    ),
]
"""What is refused as a whole, with its exit code."""
