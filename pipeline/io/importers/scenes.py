"""From the files of a data set to manifest rows: one row per scene, and what is missing told by modality."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ManifestError, StorageError
from pipeline.io.manifest_modalities import RGB, STACKED
from pipeline.io.nearest_name import did_you_mean
from pipeline.io.storage import MissingFile, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One scene of a data set; paths below its root.

    Attributes:
        name: unique in the data set.
        modalities: name to the files whose channels make it up, in the order in which the data set's models read them.
        label: the file that says what is where.
        crop: (x0, y0, x1, y1) in pixels of rgb, where the data set's loader cuts its pictures.
    """

    name: str
    rgb: str
    modalities: Mapping[str, tuple[str, ...]]
    label: str
    crop: tuple[int, int, int, int] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an importer found.

    Attributes:
        rows: of a manifest, with absolute URIs; `tags` tell the split and the label's URI.
        missing: modality ("rgb" and "label" too) to scenes that lack a file of it. Their rows are there all the same:
            the job's policy decides.
    """

    rows: tuple[dict[str, Any], ...]
    missing: Mapping[str, int]

    def summary(self) -> str:
        """Counts on one line."""
        gaps = [f"{name} in {count}" for name, count in self.missing.items()]
        return f"{len(self.rows)} scenes" + (f"; missing: {', '.join(gaps)}" if gaps else "; nothing missing")


def rows_of(
    scenes: Iterable[Scene], store: Store, files: frozenset[str], *, dataset: str, split: str, order: Sequence[str]
) -> Imported:
    """Manifest rows of scenes.

    Args:
        files: every path that is there.
        order: the modalities that a method is to see, in this order, "rgb" among them or not; empty for all.

    Raises:
        ManifestError: no scene, an unknown modality, or not one scene whose rgb is there.
    """
    scenes = tuple(scenes)
    missing = Counter(
        name for scene in scenes for name, paths in _files_of(scene).items() if not files.issuperset(paths)
    )
    if missing[RGB] == len(scenes):
        raise ManifestError(
            f"{store.root_uri}: no scene of {dataset}, split {split!r}, with its rgb image. Expected the folders that "
            "`masklake import --help` names below the root."
        )
    known = tuple(dict.fromkeys((RGB, *(name for scene in scenes for name in scene.modalities))))
    for name in order:
        if name not in known:
            raise ManifestError(f"modality {name!r}: {dataset} has none. {did_you_mean(name, known)}")
    rows = (_row(scene, store, dataset=dataset, split=split, order=order) for scene in scenes)
    return Imported(rows=tuple(rows), missing={name: missing[name] for name in (*known, "label") if missing[name]})


def listed_files(store: Store, folders: Iterable[str]) -> frozenset[str]:
    """Every path below some folders of a data set.

    Raises:
        StorageError: the store cannot be read.
    """
    return frozenset(file.path for folder in folders for file in store.list(folder))


def listed_names(store: Store, path: str) -> tuple[str, ...]:
    """Names in a list file, one a line; of a line with several words the first.

    Raises:
        ManifestError: the list is not there, is no text, or names something twice.
    """
    try:
        lines = store.read_bytes(path).decode("utf-8").splitlines()
    except MissingFile as error:
        raise ManifestError(f"{store.uri(path)}: no such list. Expected the data set's own layout.") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{store.uri(path)}: not a text of names: {error}.") from error
    names = tuple(line.split()[0] for line in lines if line.strip())
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ManifestError(f"{store.uri(path)}: {repeated[0]!r} and {len(repeated) - 1} others are there twice.")
    return names


def image_size_of(store: Store, path: str) -> tuple[int, int]:
    """(height, width) of a PNG, from its first bytes.

    Raises:
        ManifestError: not a PNG.
        StorageError: it cannot be read.
    """
    try:
        head: bytes = store.filesystem.cat_file(store.full_path(path), start=0, end=24)
    except FileNotFoundError as error:
        raise ManifestError(f"{store.uri(path)}: no such image. Expected the data set's own layout.") from error
    except OSError as error:
        raise StorageError(f"{store.uri(path)}: cannot be read: {error}. Try again.") from error
    if head[:8] != b"\x89PNG\r\n\x1a\n" or len(head) < 24:
        raise ManifestError(f"{store.uri(path)}: not a PNG.")
    return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")


def _files_of(scene: Scene) -> dict[str, tuple[str, ...]]:
    return {RGB: (scene.rgb,), **scene.modalities, "label": (scene.label,)}


def _row(scene: Scene, store: Store, *, dataset: str, split: str, order: Sequence[str]) -> dict[str, Any]:
    wanted = [name for name in scene.modalities if not order or name in order]
    row = {
        "video_uri": store.uri(scene.rgb),
        "video_id": scene.name,
        "dataset": dataset,
        "modalities": {name: STACKED.join(map(store.uri, scene.modalities[name])) for name in wanted},
        "modality_order": list(order) if order else [RGB, *wanted],
        "tags": {"split": split, **scene.tags, "label_uri": store.uri(scene.label)},
    }
    return row if scene.crop is None else row | {"crop": list(scene.crop)}
