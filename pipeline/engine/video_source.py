"""What one video of a unit is read from: a single input, or a bundle of modalities; opened first, then decoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pipeline.decode.bundle import open_bundle
from pipeline.decode.bundle_inputs import Bundle, BundleInputs, open_bundle_inputs
from pipeline.decode.bundle_options import BundleOptions
from pipeline.decode.options import BadPts, DecodeOptions
from pipeline.decode.video import VideoStream, open_video
from pipeline.errors import ConfigError
from pipeline.io.inputs import Access, InputHandle, open_input
from pipeline.io.manifest_modalities import RGB, stacked_uris
from schemas.work_unit import WorkItem


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLimits:
    """What one video may take of the machine, and how it is read.

    Attributes:
        scratch_dir: where downloads go.
        max_scratch_bytes: larger inputs are read by ranges.
        read_ahead_frames: decoded frames that may wait; 0 decodes when asked.
        on_bad_pts: see `DecodeOptions`.
        snapshot_frames: frames between two snapshots; None for none.
        bundle: how modalities are brought together; None where the method reads rgb only.
    """

    scratch_dir: str
    max_scratch_bytes: int
    read_ahead_frames: int
    on_bad_pts: BadPts
    snapshot_frames: int | None
    bundle: BundleOptions | None = None

    def without_snapshots(self) -> "VideoLimits":
        return replace(self, snapshot_frames=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSource:
    """An item whose files can be read now.

    Attributes:
        inputs: of plain video one input.
        bytes: size of all files; None if unknown.
        etag: names their version; None if the store does not say it.
    """

    item: WorkItem
    limits: VideoLimits
    inputs: InputHandle | BundleInputs

    @property
    def bytes(self) -> int | None:
        return self.inputs.bytes

    @property
    def etag(self) -> str | None:
        return self.inputs.etag

    def decode(self, *, after_frame: int = -1) -> VideoStream:
        """The item's ticks; after a snapshot from its last frame on, once more, since a stream of none is an error.

        Raises:
            DecodeError: see `open_video` and `open_bundle`.
        """
        options = DecodeOptions(
            start_frame=max(self.item.start_frame, after_frame),
            end_frame=self.item.end_frame,
            stride=self.item.stride,
            max_side=self.item.max_side,
            on_bad_pts=self.limits.on_bad_pts,
            fps=self.item.fps,
        )
        ahead = self.limits.read_ahead_frames
        if isinstance(self.inputs, BundleInputs):
            assert self.limits.bundle is not None, "a bundle is opened with its options"
            return open_bundle(bundle_of(self.item), self.inputs, self.limits.bundle, options, read_ahead_frames=ahead)
        file = self.inputs.local_path if self.inputs.file is None else self.inputs.file
        assert file is not None, "an input is a path or a file"
        return open_video(file, options, name=self.inputs.name, read_ahead_frames=ahead)


@contextmanager
def open_source(item: WorkItem, limits: VideoLimits) -> Iterator[VideoSource]:
    """Open an item's files; what was downloaded is deleted on leaving.

    Raises:
        ConfigError: the item has modalities, and the method reads rgb only.
        DecodeError, StorageError: see `open_input` and `open_bundle_inputs`.
    """
    whole = item.start_frame == 0 and item.end_frame is None
    access: Access = "whole" if whole else "ranges"
    if limits.bundle is None and (item.modality_order or item.modalities):
        raise ConfigError(
            f"modalities {', '.join(sorted(item.modalities)) or RGB}: this method's worker reads rgb only. "
            "Leave the columns modalities and modality_order out, or run a multimodal job."
        )
    if limits.bundle is not None:
        with open_bundle_inputs(
            bundle_of(item),
            limits.bundle,
            access=access,
            scratch_dir=limits.scratch_dir,
            max_scratch_bytes=limits.max_scratch_bytes,
        ) as inputs:
            yield VideoSource(item=item, limits=limits, inputs=inputs)
        return
    with open_input(
        item.video_uri,
        access=access,
        scratch_dir=limits.scratch_dir,
        max_scratch_bytes=limits.max_scratch_bytes,
    ) as handle:
        yield VideoSource(item=item, limits=limits, inputs=handle)


def bundle_of(item: WorkItem) -> Bundle:
    """The modalities of an item; of plain video rgb alone."""
    return Bundle(
        video_uri=item.video_uri,
        modalities={name: stacked_uris(uri) for name, uri in item.modalities.items()},
        order=item.modality_order or (RGB, *item.modalities),
        crop=item.crop,
    )
