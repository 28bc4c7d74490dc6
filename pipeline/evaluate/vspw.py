"""masklake evaluate vspw: folders of predicted label maps scored against a data set in VSPW's layout."""

# Axes: T frames, H W pixels.

import io
import json as json_format
import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.errors import ConfigError
from pipeline.evaluate.semantic import VOID, SemanticScorer, SemanticScores
from pipeline.evaluate.semantic_protocols import SEMANTIC_PROTOCOLS, semantic_protocol
from pipeline.io.storage import MissingFile, Store, open_store
from pipeline.io.vspw_layout import CLASS_NUMBERS

Labels = NDArray[np.uint8]


def evaluate_vspw(
    root: str, predictions: str, subset: str = "val", protocol: str = "vspw", json: str | None = None
) -> int:
    """Score label maps, as `masklake export vspw` writes them, against a data set in VSPW's layout.

    Args:
        root: folder or store URI that holds data/, the lists of videos and label_num_dic_final.json.
        predictions: folder or store URI of VIDEO/PICTURE.png with class ids; 255 where nothing was predicted.
        subset: which list of videos.
        protocol: vspw, vspw_dvis, masklake or deliver.
        json: also write all numbers to this file.
    """
    if protocol not in SEMANTIC_PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r}: expected one of {', '.join(SEMANTIC_PROTOCOLS)}.")
    scores = score_vspw(root, predictions, subset=subset, protocol=protocol)
    numbers = scores.as_dict()
    print(f"protocol {protocol}: {semantic_protocol(protocol).source}; {scores.num_frames} frames")
    for name, value in numbers.items():
        print(f"{name:24} {'not measured' if value is None else f'{value:.4f}'}")
    if json is not None:
        with open(json, "w", encoding="utf-8") as file:
            json_format.dump({"protocol": protocol, "frames": scores.num_frames, **numbers}, file, indent=1)
    sys.stdout.flush()
    return 0


def score_vspw(root: str, predictions: str, *, subset: str = "val", protocol: str = "vspw") -> SemanticScores:
    """Scores of all videos of a list.

    Source: Miao et al., VSPW, CVPR 2021, and its evaluator: a mask holds class id + 1 and 0 for void, a prediction
    class ids.

    Raises:
        ConfigError: a list, mask or prediction is missing, no 8-bit map, of another size, or holds unknown classes.
    """
    truths, predicted = open_store(root), open_store(predictions)
    scorer = SemanticScorer(protocol=semantic_protocol(protocol), num_classes=_num_classes(truths))
    for video in _read(truths, f"{subset}.txt", f"the list of videos of {subset!r}").decode().split():
        masks = sorted(file.path for file in truths.list(f"data/{video}/mask") if file.path.endswith(".png"))
        if not masks:
            raise ConfigError(f"{truths.uri(f'data/{video}/mask')}: no masks. Name the folder that holds data/.")
        names = [path.rpartition("/")[2] for path in masks]
        raw_THW = _stacked(truths, masks, "a mask of the data set")
        labels_THW = _stacked(predicted, [f"{video}/{name}" for name in names], "a prediction")
        try:
            scorer.add_video(labels_THW, np.where(raw_THW == 0, np.uint8(VOID), raw_THW - np.uint8(1)))
        except ValueError as error:
            raise ConfigError(f"video {video!r}: {error}") from error
    return scorer.scores()


def _num_classes(store: Store) -> int:
    try:
        numbers = json_format.loads(_read(store, CLASS_NUMBERS, "the names of the classes"))
        return max(int(number) for number in numbers.values() if int(number) < VOID - 1)
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{store.uri(CLASS_NUMBERS)}: {error}. Expected names with numbers, as in VSPW.") from error


def _stacked(store: Store, paths: list[str], what: str) -> Labels:
    """Maps of one video, (T, H, W)."""
    maps = []
    for path in paths:
        data = _read(store, path, what)
        try:
            with Image.open(io.BytesIO(data)) as picture:
                maps.append(np.array(picture))
        except (OSError, UnidentifiedImageError) as error:
            raise ConfigError(f"{store.uri(path)}: cannot be read as a picture: {error}") from error
        if maps[-1].dtype != np.uint8 or maps[-1].shape != maps[0].shape or maps[-1].ndim != 2:
            raise ConfigError(
                f"{store.uri(path)}: {maps[-1].dtype} {maps[-1].shape}; expected {what} of 8 bits a pixel, all of a "
                "video of one size."
            )
    return np.stack(maps)


def _read(store: Store, path: str, what: str) -> bytes:
    try:
        return store.read_bytes(path)
    except MissingFile as error:
        raise ConfigError(f"{store.uri(path)}: no such file; expected {what}.") from error
