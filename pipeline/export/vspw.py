"""Class regions of a lake as label maps in VSPW's layout: a PNG for each frame, named as the video's pictures are."""

# Axes: H W pixels.

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.decode.frame_folder import is_image, natural_key
from pipeline.errors import ConfigError
from pipeline.io.commit_log import read_commits
from pipeline.io.storage import OBJECT_STORES, Store, open_store
from pipeline.io.uris import LOCAL, name_of, parent_uri, readable_uri, split_uri
from pipeline.io.vspw_layout import CLASS_NUMBERS
from pipeline.masks import rle
from pipeline.query import Run, open_run

Form = Literal["predictions", "masks"]

VOID = 255
"""What a prediction holds where nothing was predicted."""

_MAX_MASK_NUMBER = 253
"""Of VSPW's masks: 254 and 255 are void as well as 0."""

_VOID_NAME = "others"
_ROWS_AT_ONCE = 256

# A masklet's object_id is above the number of classes, so this tells regions from masklets in a run that reports both.
_REGIONS = "present AND class_id IS NOT NULL AND object_id = class_id + 1"

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMaps:
    """What was written.

    Attributes:
        class_names: class id to name; None for a class that no row shows and nobody named.
        num_void_frames: frames without any class region.
        without_size: videos of which no map was written, since no row of the masks table tells their size.
    """

    class_names: tuple[str | None, ...]
    num_videos: int
    num_frames: int
    num_void_frames: int
    without_size: tuple[str, ...]

    def summary(self) -> str:
        """One line, and one more where videos are missing."""
        told = f"{self.num_videos} videos, {self.num_frames} label maps, {len(self.class_names)} classes"
        if self.num_void_frames:
            told += f"; {self.num_void_frames} maps hold no class"
        if self.without_size:
            told += (
                f"\nnot written, since they have no row in the masks table that tells their size: "
                f"{', '.join(self.without_size)}"
            )
        return told


def export_vspw(
    lake: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    run_id: str | None = None,
    form: Form = "predictions",
    classes: str | None = None,
    unpainted: int = VOID,
    subset: str = "val",
) -> ExportedMaps:
    """Write the committed class regions of one run as label maps; files that are there are replaced.

    "predictions": `<video>/<picture>.png` with class ids, as VSPW's evaluators read them. "masks": the data set's own
    layout, `data/<video>/mask/<picture>.png` with class id + 1 and 0 for void, `<subset>.txt` and
    `label_num_dic_final.json`; with pictures beside the masks it can be trained on.

    A map has the name of the picture that it labels where the video is a folder of pictures, else its frame_index
    with eight digits; and the size of the decoded frame.

    Source: Miao et al., VSPW, CVPR 2021, as its published copy and evaluator lay files out.

    Args:
        lake: root of the lake.
        out: folder or store URI.
        run_id: the run, where the lake has several.
        classes: path or URI of a label_num_dic_final.json that the run's classes must agree with; it also names
            classes that the run never saw.
        unpainted: of predictions, what pixels without a class hold: 255, or a class id for evaluators that know no
            void in predictions, as VSPW's own does.

    Raises:
        ConfigError: several runs, no class regions, classes that do not agree, do not fit a byte or lack names, or
            pictures that are no longer where the run read them.
        StorageError: the lake cannot be read, or `out` not be written.
    """
    if not 0 <= unpainted <= VOID:
        raise ConfigError(f"unpainted {unpainted}: expected a class id, or {VOID} for void.")
    maps = _MapFolder(store=open_store(out), form=form, unpainted=unpainted)
    written: dict[str, tuple[int, int]] = {}
    without_size = []
    with open_run(lake, run_id=run_id) as run:
        names = _class_names(run, classes, form)
        for video_id, uri in _videos(run).items():
            if (size := _size_of(run, video_id)) is None:
                without_size.append(video_id)
            else:
                written[video_id] = maps.write_video(video_id, uri, _label_maps(run, video_id, size))
    if form == "masks":
        maps.write_lists(subset, list(written), names)
    return ExportedMaps(
        class_names=names,
        num_videos=len(written),
        num_frames=sum(num_frames for num_frames, _ in written.values()),
        num_void_frames=sum(num_void for _, num_void in written.values()),
        without_size=tuple(without_size),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _MapFolder:
    """Where label maps go, and what stands for a class in them."""

    store: Store
    form: Form
    unpainted: int

    def write_video(self, video_id: str, uri: str, maps: Iterable[tuple[int, Labels]]) -> tuple[int, int]:
        """Maps of (frame_index, class ids and VOID) by the names of the pictures; how many, and how many are void."""
        pictures, num_frames, num_void = _picture_names(uri), 0, 0
        for frame_index, labels in maps:
            self._write(video_id, _name_of_frame(frame_index, pictures, uri), labels)
            num_frames, num_void = num_frames + 1, num_void + bool((labels == VOID).all())
        return num_frames, num_void

    def write_lists(self, subset: str, videos: Sequence[str], names: Sequence[str | None]) -> None:
        """The data set's lists of videos and of classes."""
        self.store.write_whole(f"{subset}.txt", "".join(f"{video_id}\n" for video_id in videos).encode())
        numbers = {_VOID_NAME: 0} | {str(name): class_id + 1 for class_id, name in enumerate(names)}
        self.store.write_whole(CLASS_NUMBERS, json.dumps(numbers).encode())

    def _write(self, video_id: str, picture: str, labels: Labels) -> None:
        is_mask = self.form == "masks"
        path = f"data/{video_id}/mask/{picture}.png" if is_mask else f"{video_id}/{picture}.png"
        void = np.uint8(0 if is_mask else self.unpainted)
        buffer = io.BytesIO()
        Image.fromarray(np.where(labels == VOID, void, labels + np.uint8(is_mask))).save(buffer, "PNG")
        try:
            self.store.write_whole(path, buffer.getvalue())
        except ValueError as error:
            raise ConfigError(f"video {video_id!r} cannot name a folder: {error}") from error


def _class_names(run: Run, classes: str | None, form: Form) -> tuple[str | None, ...]:
    """Class id to name, from the rows and the file."""
    if len(run.run_ids) > 1:
        raise ConfigError(f"{run.store.root_uri}: runs {', '.join(run.run_ids)}. Name one with run_id.")
    rows = run.sql(f"SELECT DISTINCT class_id, label FROM masks WHERE {_REGIONS} ORDER BY ALL").fetchall()
    if not rows:
        raise ConfigError(
            f"{run.store.root_uri}, run {run.run_ids[0]}: no class regions. Label maps are made of what "
            "semantic_corpus reports as 'regions' or 'both', and multimodal_corpus always."
        )
    seen: dict[int, str] = dict(rows)
    named = seen if classes is None else _read_class_numbers(classes)
    differ = [class_id for class_id, name in seen.items() if named.get(class_id) != name]
    if differ:
        here, there = seen[differ[0]], named.get(differ[0])
        raise ConfigError(
            f"{classes}: class {differ[0]} is {here!r} in the run and {there!r} in the file (number {differ[0] + 1}). "
            "Give the class list of the network or classifier that the run used."
        )
    count = max(named) + 1
    limit = _MAX_MASK_NUMBER if form == "masks" else VOID
    if count > limit:
        raise ConfigError(f"class {count - 1}: {form} hold at most {limit} classes beside void.")
    missing = [class_id for class_id in range(count) if class_id not in named]
    if missing and form == "masks":
        raise ConfigError(
            f"classes {missing[:5]} were never seen, so that nothing tells their names. Give classes, the data set's "
            f"{CLASS_NUMBERS}."
        )
    return tuple(named.get(class_id) for class_id in range(count))


def _read_class_numbers(file: str) -> dict[int, str]:
    """Class id to name, of a file that holds name to class id + 1."""
    store = open_store(parent_uri(os.path.abspath(file) if split_uri(file)[0] == LOCAL else file))
    try:
        numbers = json.loads(store.read_bytes(name_of(file)))
        return {int(number) - 1: str(name) for name, number in numbers.items() if 0 < int(number) < 254}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{file}: cannot be read as names with numbers: {error}. Expected VSPW's file.") from error


def _videos(run: Run) -> dict[str, str]:
    """Committed videos by name, and where each was read."""
    commits = read_commits(run.store, run.run_ids[0])
    return dict(sorted((item.video_id, item.video_uri) for commit in commits for item in commit.items))


def _size_of(run: Run, video_id: str) -> tuple[int, int] | None:
    """(height, width) of a video's frames; None where it has no row in the masks table."""
    ((height, width),) = run.sql("SELECT max(height), max(width) FROM masks WHERE video_id = ?", [video_id]).fetchall()
    return None if height is None else (int(height), int(width))


def _label_maps(run: Run, video_id: str, size: tuple[int, int]) -> Iterator[tuple[int, Labels]]:
    """(frame_index, map of class ids and VOID) of every processed frame, in order."""
    # The join keeps frames on which no class was painted.
    found = run.connection.cursor().execute(
        "SELECT frames.frame_index, region.class_id, region.rle FROM frames LEFT JOIN "
        f"(SELECT video_id, frame_index, class_id, rle FROM masks WHERE {_REGIONS}) region "
        "ON frames.video_id = region.video_id AND frames.frame_index = region.frame_index "
        "WHERE frames.video_id = ? ORDER BY frames.frame_index, region.class_id",
        [video_id],
    )
    rows = (row for some in iter(lambda: found.fetchmany(_ROWS_AT_ONCE), []) for row in some)
    for frame_index, regions in groupby(rows, key=lambda row: int(row[0])):
        labels = np.full(size, VOID, np.uint8)
        for _, class_id, counts in regions:
            if class_id is None:
                continue
            mask = rle.decode(counts, *size)
            if (labels[mask] != VOID).any():
                raise ConfigError(f"video {video_id!r}, frame {frame_index}: class regions overlap; no map holds both.")
            labels[mask] = class_id
        yield frame_index, labels


def _picture_names(uri: str) -> Sequence[str] | None:
    """Names of a folder's pictures without their suffix, a picture's place being its frame_index; None for a video."""
    if is_image(name_of(uri)):
        return (name_of(uri).rpartition(".")[0],)
    if split_uri(uri)[0] not in {LOCAL, *OBJECT_STORES}:
        return None
    files = [file.path for file in open_store(uri).list()]
    pictures = [name for name in files if "/" not in name and is_image(name) and not name.startswith(".")]
    if pictures:
        stems = {name: name.rpartition(".")[0] for name in pictures}
        return [stems[name] for name in sorted(pictures, key=lambda name: (natural_key(stems[name]), name))]
    if not open_store(parent_uri(uri)).exists(name_of(uri)):
        raise ConfigError(
            f"{readable_uri(uri)}: no longer there, and if it was a folder, its pictures name the maps. Put it back."
        )
    return None


def _name_of_frame(frame_index: int, pictures: Sequence[str] | None, uri: str) -> str:
    if pictures is None:
        return f"{frame_index:08d}"
    if frame_index >= len(pictures):
        raise ConfigError(
            f"{readable_uri(uri)}: {len(pictures)} pictures, but the run saw frame {frame_index}. "
            "Put back what it read."
        )
    return pictures[frame_index]
