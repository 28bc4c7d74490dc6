"""Aligned modalities as ticks: several readers, one of which leads, brought to one time, one size and one order."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import cast

import numpy as np

from pipeline.decode.alignment import Follower, Match, Position, numbers_in
from pipeline.decode.bundle_inputs import Bundle, BundleInputs
from pipeline.decode.bundle_options import BundleOptions
from pipeline.decode.frame_folder import folder_ticks, frame_files, image_size
from pipeline.decode.modality_frames import (
    Alignment,
    ModalityFrame,
    kind_of,
    local_path_of,
    modality_frames,
    nearest_resized,
    shrunk,
)
from pipeline.decode.options import DecodeOptions
from pipeline.decode.pixels import fitted_size
from pipeline.decode.video import StreamFacts, VideoStream, open_video
from pipeline.errors import DecodeError
from pipeline.ticks import RGB, Image, Tick, Values

SKIPPED = "skipped"
"""Flag of a frame that was left out."""


def open_bundle(
    bundle: Bundle,
    inputs: BundleInputs,
    bundle_options: BundleOptions,
    options: DecodeOptions,
    *,
    read_ahead_frames: int = 0,
) -> VideoStream:
    """Open all modalities and read the first tick; the others are read as they are asked for.

    The range, stride and max_side are rgb's; the other modalities are followed from their beginnings. Each tick holds
    the modalities in the bundle's order, all at rgb's size; one that is left out has no images and the flag "skipped".

    Args:
        options: `fps` is the rate of directories and of series of arrays; videos bring their own times.

    Raises:
        DecodeError: an input is broken or does not fit the others, or has a gap under on_missing="error".
        StorageError: reading a file failed.
    """
    align = _alignment(inputs, bundle_options)
    reading = replace(options, max_side=None) if bundle.crop else options
    stack = ExitStack()
    try:
        video = _open_leading(inputs, reading, stack)
        gathering = _Gathering(
            bundle=bundle,
            options=bundle_options,
            align=align,
            followers=_followers(inputs, stack, reading, bundle_options, align),
            numbers=_numbers_of(inputs) if align == "name" else None,
            size=(video.height, video.width),
            read_max_side=reading.max_side,
            max_side=options.max_side,
            name=inputs.name,
        )
        facts = _facts_of(video, bundle, options.max_side, inputs.name)
        ticks = (gathering.tick(leading) for leading in video)
        first = next(ticks)
    except BaseException:
        stack.close()
        raise
    return VideoStream(
        facts, chain([first], ticks), name=inputs.name, release=stack.close, read_ahead_frames=read_ahead_frames
    )


def _alignment(inputs: BundleInputs, options: BundleOptions) -> Alignment:
    if options.align != "auto":
        return options.align
    kinds = {kind_of(handle) for handle in (inputs.video, *inputs.files.values()) if handle is not None}
    return "name" if "folder" in kinds and "video" not in kinds else "time"


def _followers(
    inputs: BundleInputs, stack: ExitStack, reading: DecodeOptions, options: BundleOptions, align: Alignment
) -> dict[str, Follower[ModalityFrame]]:
    tolerance = options.tolerance_us if align == "time" else options.tolerance_frames
    return {
        uri: Follower(modality_frames(handle, stack, reading, align=align), tolerance=tolerance, name=handle.name)
        for uri, handle in inputs.files.items()
        if handle is not None
    }


def _open_leading(inputs: BundleInputs, options: DecodeOptions, stack: ExitStack) -> VideoStream:
    handle, kind = inputs.video, kind_of(inputs.video)
    if kind == "array":
        raise DecodeError(f"{handle.name}: rgb cannot be a .npy. Give a video, a directory of frames or an image.")
    if kind == "video":
        source = handle.local_path if handle.file is None else handle.file
        assert source is not None, "an input is a path or a file"
        return stack.enter_context(open_video(source, replace(options, fps=None), name=handle.name))
    path = local_path_of(handle)
    if kind == "folder":
        return stack.enter_context(open_video(path, options, name=handle.name))
    source_height, source_width = image_size(path)
    height, width = fitted_size(source_height, source_width, options.max_side)
    facts = StreamFacts(
        height=height,
        width=width,
        source_height=source_height,
        source_width=source_width,
        fps=None,
        num_frames_estimate=1,
    )
    ticks = folder_ticks([path], options)
    return VideoStream(facts, ticks, name=handle.name, release=lambda: None, read_ahead_frames=0)


def _numbers_of(inputs: BundleInputs) -> list[Position] | None:
    """Numbers in the names of the leading files; None for a video, whose frames are numbered by their places."""
    kind = kind_of(inputs.video)
    if kind == "video":
        return None
    path = local_path_of(inputs.video)
    files = frame_files(path) if kind == "folder" else [path]
    numbers = [numbers_in(file.stem) for file in files]
    for place, (earlier, later) in enumerate(pairwise(numbers), start=1):
        if later <= earlier:
            raise DecodeError(
                f"{inputs.name}: {files[place].name} is numbered {later} after {earlier}. Expected ascending numbers, "
                "each once; rename the files, or align by time."
            )
    return numbers


def _facts_of(video: VideoStream, bundle: Bundle, max_side: int | None, name: str) -> StreamFacts:
    if bundle.crop is None:
        return video.facts
    x0, y0, x1, y1 = bundle.crop
    if x1 > video.source_width or y1 > video.source_height:
        raise DecodeError(
            f"{name}: crop {list(bundle.crop)} leaves the picture of {video.source_width}x{video.source_height} (width "
            "x height). Expected [x0, y0, x1, y1] within it; correct the manifest."
        )
    height, width = fitted_size(y1 - y0, x1 - x0, max_side)
    return replace(video.facts, height=height, width=width)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gathering:
    """How each leading frame becomes a tick.

    Attributes:
        followers: URI to frames; URIs that are not there are missing.
        numbers: of the leading files by frame_index, under alignment by name; None for a video.
        size: (height, width) of the leading frames as they are read.
        read_max_side: what the readers of videos scale to; max_side: what the crop is scaled to.
    """

    bundle: Bundle
    options: BundleOptions
    align: Alignment
    followers: dict[str, Follower[ModalityFrame]]
    numbers: list[Position] | None
    size: tuple[int, int]
    read_max_side: int | None
    max_side: int | None
    name: str

    def tick(self, leading: Tick) -> Tick:
        """The leading frame with every modality in order, or without images if it is left out."""
        images: dict[str, Image] = {}
        flags: list[str] = []
        is_whole = True
        for name in self.bundle.order:
            image = self._image(name, leading, flags)
            if image is not None:
                images[name] = cast(Image, self._cut(image))
            is_whole = is_whole and image is not None
        if not images or (not is_whole and self.options.on_missing == "skip_frame"):
            return replace(leading, images={}, flags=(*flags, SKIPPED))
        return replace(leading, images=images, flags=tuple(flags))

    def _image(self, name: str, leading: Tick, flags: list[str]) -> Image | Values | None:
        if name in self.options.zero_filled:
            return np.zeros((*self.size, 3), dtype=np.uint8)
        if name == RGB:
            return leading.rgb
        parts = []
        for uri in self.bundle.modalities[name]:
            frame = self._frame(name, uri, leading, flags)
            if frame is None:
                return None
            where = f"{self.name}, frame {leading.frame_index}: modality {name}"
            values = self._finite(frame.load(), name, where, flags)
            parts.append(self._sized(shrunk(values, self.read_max_side), name, where, flags))
        return parts[0] if len(parts) == 1 else _stacked(parts, f"{self.name}: modality {name}")

    def _frame(self, name: str, uri: str, leading: Tick, flags: list[str]) -> ModalityFrame | None:
        follower = self.followers.get(uri)
        match: Match[ModalityFrame] = Match(frame=None, offset=None)
        if follower is not None:
            match = follower.at(self._position(leading))
        if match.frame is not None:
            return match.frame
        if self.options.on_missing == "error":
            raise self._gap(name, leading, match.offset)
        if self.align == "time" and match.offset is not None:
            _tell(flags, f"late:{name}:{match.offset:+d}us")
        else:
            _tell(flags, f"missing:{name}")
        return None

    def _position(self, leading: Tick) -> Position:
        if self.align == "time":
            return (leading.pts_us,)
        return (leading.frame_index,) if self.numbers is None else self.numbers[leading.frame_index]

    def _gap(self, name: str, leading: Tick, offset: int | None) -> DecodeError:
        wanted = ".".join(map(str, self._position(leading))) or "(none)"
        unit, tolerance = "us", self.options.tolerance_us
        if self.align == "name":
            unit, tolerance = "frames", self.options.tolerance_frames
        came = "none comes near it" if offset is None else f"the nearest is {offset:+d} {unit} away"
        kind = "time" if self.align == "time" else "number"
        return DecodeError(
            f"{self.name}, frame {leading.frame_index}: modality {name} has no frame for {kind} {wanted}, {came}. "
            f"Expected one within {tolerance} {unit}; widen the tolerance, or set on_missing to drop_modality or "
            "skip_frame."
        )

    def _finite(self, image: Image | Values, name: str, where: str, flags: list[str]) -> Image | Values:
        if image.dtype == np.uint8 or np.isfinite(image).all():
            return image
        if self.options.on_nan == "error":
            share = 1 - float(np.isfinite(image).mean())
            raise DecodeError(
                f"{where}: {share:.1%} of the values are NaN or infinite. Expected numbers; fill the gaps, or set "
                "on_nan to zero."
            )
        _tell(flags, f"nan:{name}")
        return cast(Values, np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0))

    def _sized(self, image: Image | Values, name: str, where: str, flags: list[str]) -> Image | Values:
        height, width = self.size
        came = image.shape[:2]
        if came == self.size:
            return image
        has_same_shape = abs(came[0] * width - came[1] * height) < max(height, width)
        if self.options.on_other_size == "error" or not has_same_shape:
            raise DecodeError(
                f"{where} is {came[0]}x{came[1]} (height x width), rgb {height}x{width}. Expected "
                f"{'one size' if has_same_shape else 'one shape'}; resize or crop it to rgb's view."
            )
        _tell(flags, f"resized:{name}")
        return nearest_resized(image, self.size)

    def _cut(self, image: Image | Values) -> Image | Values:
        if self.bundle.crop is None:
            return image
        x0, y0, x1, y1 = self.bundle.crop
        return shrunk(cast(Image, np.ascontiguousarray(image[y0:y1, x0:x1])), self.max_side)


def _stacked(parts: list[Image | Values], where: str) -> Image | Values:
    """Grey parts as the channels of one image."""
    if len(parts) != 3 or len({part.dtype for part in parts}) != 1:
        kinds = ", ".join(str(part.dtype) for part in parts)
        raise DecodeError(f"{where} is stacked of {len(parts)} parts ({kinds}). Expected three of one kind.")
    if any((part[:, :, 0] != part[:, :, channel]).any() for part in parts for channel in (1, 2)):
        raise DecodeError(f"{where} is stacked of coloured parts. Expected grey ones.")
    return cast(Image, np.stack([part[:, :, 0] for part in parts], axis=2))


def _tell(flags: list[str], flag: str) -> None:
    if flag not in flags:
        flags.append(flag)
