"""What one manifest row brings together, opened for reading: the video that leads, and every modality's files."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pipeline.decode.bundle_options import BundleOptions
from pipeline.decode.frame_folder import is_image
from pipeline.errors import DecodeError
from pipeline.io.inputs import Access, InputHandle, open_input
from pipeline.io.uris import name_of, readable_uri
from pipeline.ticks import RGB


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one manifest row brings together.

    Attributes:
        video_uri: rgb: a video, a directory of frames or an image. It tells times and size also where a method does
            not see it.
        modalities: name to the URIs whose channels make it up: one, or three grey ones.
        order: what a method sees, in this order.
        crop: (x0, y0, x1, y1) in source pixels of rgb; None for the whole picture.
    """

    video_uri: str
    modalities: Mapping[str, tuple[str, ...]]
    order: tuple[str, ...]
    crop: tuple[int, int, int, int] | None = None

    def uris_read(self, options: BundleOptions) -> tuple[str, ...]:
        """The URIs of all modalities that are seen and recorded, besides rgb, each once."""
        names = [name for name in self.order if name != RGB and name not in options.zero_filled]
        return tuple(dict.fromkeys(uri for name in names for uri in self.modalities[name]))


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleInputs:
    """A bundle that can be read now.

    Attributes:
        video: rgb.
        files: URI to input, for every URI of the other modalities; None for what is not there.
    """

    video: InputHandle
    files: Mapping[str, InputHandle | None]

    @property
    def name(self) -> str:
        return self.video.name

    @property
    def bytes(self) -> int | None:
        """Size of all that is there; None if that of any part is unknown."""
        sizes = [handle.bytes for handle in (self.video, *self.files.values()) if handle is not None]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def etag(self) -> str | None:
        """Names the version of all files together; None if the store does not say it of one that is there."""
        versions = [(uri, "" if handle is None else handle.etag) for uri, handle in self.files.items()]
        if self.video.etag is None or any(version is None for _, version in versions):
            return None
        return hashlib.sha256(repr([self.video.etag, *versions]).encode()).hexdigest()[:32]


@contextmanager
def open_bundle_inputs(
    bundle: Bundle, options: BundleOptions, *, access: Access = "whole", scratch_dir: str, max_scratch_bytes: int
) -> Iterator[BundleInputs]:
    """Open every file of a bundle; what was downloaded is deleted on leaving.

    Args:
        access: how rgb is read, as `open_input` takes it; the other modalities are read whole.

    Raises:
        DecodeError: rgb is not there, or a modality is not under on_missing="error", or one cannot be opened.
        StorageError: a store failed; another try may succeed.
    """
    with ExitStack() as stack:

        def opened(uri: str, how: Access = "whole") -> InputHandle:
            return stack.enter_context(
                open_input(uri, access=how, scratch_dir=scratch_dir, max_scratch_bytes=max_scratch_bytes)
            )

        video = opened(bundle.video_uri, "whole" if is_image(name_of(bundle.video_uri)) else access)
        files: dict[str, InputHandle | None] = {}
        for uri in bundle.uris_read(options):
            try:
                files[uri] = opened(uri)
            except DecodeError as error:
                if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                    raise
                if options.on_missing == "error":
                    raise _missing(bundle, uri) from error
                files[uri] = None
        yield BundleInputs(video=video, files=files)


def _missing(bundle: Bundle, uri: str) -> DecodeError:
    names = ", ".join(name for name, uris in bundle.modalities.items() if uri in uris)
    return DecodeError(
        f"{readable_uri(bundle.video_uri)}: modality {names} is not there: no such file or directory: "
        f"{readable_uri(uri)}. Put it there, correct the manifest, or set on_missing to drop_modality or skip_frame."
    )
