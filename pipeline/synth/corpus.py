"""Writes generated clips as a corpus that the jobs read: videos, manifest.jsonl, and truth.jsonl beside it."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks import rle
from pipeline.synth.clip import Clip
from pipeline.synth.expressions import Expression

PixelFormat = Literal["yuv420p", "yuv444p"]
PromptKind = Literal["point", "box", "mask"]

DATASET = "shapesref"
MANIFEST_NAME = "manifest.jsonl"
TRUTH_NAME = "truth.jsonl"

_BT601 = 6  # AVCOL_SPC_SMPTE170M, what swscale converts RGB to and what untagged small videos are taken for
_LIMITED_RANGE = 1


def write_corpus(
    clips: Iterable[Clip],
    out_dir: Path,
    *,
    dataset: str = DATASET,
    prompt: PromptKind | None = None,
    pixel_format: PixelFormat = "yuv420p",
    crf: int = 12,
) -> Path:
    """Write clips one by one as `videos/<video_id>.mp4`, `manifest.jsonl` and `truth.jsonl`.

    A truth row holds, for every object and every expression, one COCO RLE per frame, null where nothing is visible.

    Args:
        dataset: the manifest's column of that name.
        prompt: also prompt each object by this on the frame where it is first seen, for tracking jobs.
        pixel_format: "yuv420p" plays everywhere but blurs colours over two pixels (mean error 2 grey levels, at
            edges up to 90); "yuv444p" keeps them (0.9, at edges up to 33) but few hardware decoders take it.
        crf: x264's quality, 0 (lossless) to 51.

    Returns:
        Path of the manifest.

    Raises:
        FileExistsError: there is a corpus already.
        ValueError: two clips have one name, or a size is odd, which "yuv420p" cannot hold.
    """
    manifest_path = out_dir / MANIFEST_NAME
    if manifest_path.exists():
        raise FileExistsError(f"{manifest_path} exists. Remove the old corpus, or write to another directory.")
    (out_dir / "videos").mkdir(parents=True, exist_ok=True)
    written: set[str] = set()
    with (
        manifest_path.open("w", encoding="utf-8") as manifest,
        (out_dir / TRUTH_NAME).open("w", encoding="utf-8") as truth,
    ):
        for clip in clips:
            if clip.video_id in written:
                raise ValueError(f"{clip.video_id} comes twice; clips of one corpus need different seeds or indices.")
            written.add(clip.video_id)
            uri = f"videos/{clip.video_id}.mp4"
            write_video(
                clip.frames,
                out_dir / uri,
                frames_per_second=clip.frames_per_second,
                pixel_format=pixel_format,
                crf=crf,
            )
            _write_line(manifest, manifest_row(clip, uri, dataset=dataset, prompt=prompt))
            _write_line(truth, truth_row(clip))
    return manifest_path


def write_video(
    frames: Iterable[NDArray[np.uint8]],
    path: Path,
    *,
    frames_per_second: int,
    pixel_format: PixelFormat = "yuv420p",
    crf: int = 12,
) -> None:
    """Write frames, uint8 (H, W, 3) each, as H.264 in mp4, so that equal frames give equal files.

    For that one thread, and x264's arithmetic that is the same on every CPU: with its faster one the same 24 frames
    gave five different files in twelve attempts of one process.

    Raises:
        ValueError: there is no frame, or a side is odd and the pixel format halves it.
    """
    coming = iter(frames)
    first = next(coming, None)
    if first is None:
        raise ValueError(f"{path}: no frames. A video needs one at least.")
    height, width, _ = first.shape
    if pixel_format == "yuv420p" and (height % 2 or width % 2):
        raise ValueError(f"{path}: {height}x{width} is odd; yuv420p needs even sides. Use pixel_format='yuv444p'.")
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        options = {"crf": str(crf), "threads": "1", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=frames_per_second, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.colorspace = _BT601
        stream.codec_context.color_range = _LIMITED_RANGE
        for frame in chain([first], coming):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def manifest_row(
    clip: Clip, video_uri: str, *, dataset: str = DATASET, prompt: PromptKind | None = None
) -> dict[str, Any]:
    """The row of `schemas.manifest` for a clip stored at `video_uri`."""
    row: dict[str, Any] = {
        "video_uri": video_uri,
        "video_id": clip.video_id,
        "dataset": dataset,
        "expressions": [
            {"id": said.expression_id, "text": said.text, "motion_words": list(said.motion_words)}
            for said in clip.expressions
        ],
    }
    if prompt is not None:
        object_ids = [thing.object_id for thing in clip.truth.objects]
        row["prompts"] = [
            _prompt(clip, object_id, prompt) for object_id in object_ids if _is_ever_visible(clip, object_id)
        ]
    return row


def truth_row(clip: Clip) -> dict[str, Any]:
    """Everything that is true of a clip, ready for JSON."""
    num_frames, height, width = clip.labels.shape
    boxes = clip.boxes()
    objects = [
        {**asdict(thing), "rles": coco_rles(clip.object_mask(thing.object_id)), "boxes": _json_boxes(boxes[:, slot])}
        for slot, thing in enumerate(clip.truth.objects)
    ]
    return {
        "video_id": clip.video_id,
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "frames_per_second": clip.frames_per_second,
        "twins": clip.twins,
        "objects": objects,
        "expressions": [_expression_truth(clip, said) for said in clip.expressions],
    }


def coco_rles(masks: NDArray[np.bool_]) -> list[dict[str, Any] | None]:
    """COCO RLE of each mask of bool (T, H, W), None where it is empty."""
    _, height, width = masks.shape
    return [rle.to_coco(rle.encode(mask), height, width) if mask.any() else None for mask in masks]


def _expression_truth(clip: Clip, said: Expression) -> dict[str, Any]:
    return {
        "id": said.expression_id,
        "text": said.text,
        "kind": said.kind,
        "object_ids": list(said.target_ids),
        "near_miss_ids": list(said.near_miss_ids),
        "motion_words": list(said.motion_words),
        "flags": asdict(said.flags),
        "rles": coco_rles(clip.expression_mask(said)),
    }


def _json_boxes(boxes: NDArray[np.int32]) -> list[list[int] | None]:
    """Boxes int32 (T, 4) as lists, None where not visible."""
    return [box if box[0] >= 0 else None for box in boxes.tolist()]


def _is_ever_visible(clip: Clip, object_id: int) -> bool:
    return bool(clip.truth.visible_px[:, object_id - 1].any())


def _prompt(clip: Clip, object_id: int, kind: PromptKind) -> dict[str, Any]:
    """A prompt on the first frame that shows at least a third of what is ever seen of the object."""
    areas = clip.truth.visible_px[:, object_id - 1]
    frame = int(np.flatnonzero(3 * areas >= areas.max())[0])
    mask = clip.labels[frame] == object_id
    prompt: dict[str, Any] = {"object_id": object_id, "frame": frame}
    if kind == "mask":
        prompt["mask_rle"] = coco_rles(mask[None])[0]
    elif kind == "box":
        prompt["box"] = clip.boxes()[frame, object_id - 1].tolist()
    else:
        prompt["points"] = [[*_innermost(mask), 1]]
    return prompt


def _innermost(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """x and y of the centre of the pixel farthest from the mask's edge."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return float(column) + 0.5, float(row) + 0.5


def _write_line(file: TextIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, separators=(",", ":")) + "\n")
