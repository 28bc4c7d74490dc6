"""What the videos of a plan are, asked of the files themselves by several threads; a file that does not answer is left
to the run, which records why."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from pipeline.decode.frame_folder import is_image
from pipeline.decode.probe import probe
from pipeline.errors import MasklakeError
from pipeline.io.inputs import input_bytes, open_input
from pipeline.io.manifest_modalities import stacked_uris
from pipeline.io.uris import LOCAL, name_of, split_uri
from schemas.work_unit import WorkItem

logger = logging.getLogger(__name__)

MAX_PROBED = 5_000
"""Beyond this many videos a plan is made without looking into them: a probe in a store takes about 50 ms."""

_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Frames and bytes of one item's source; None where it does not tell."""

    num_frames: int | None
    num_bytes: int | None


def probe_all(items: Iterable[WorkItem], *, scratch_dir: str | None, needed: bool) -> dict[str, Probed]:
    """Item id to what its source tells; empty when there are more than MAX_PROBED, unless it is `needed`."""
    items = list(items)
    if len(items) > MAX_PROBED and not needed:
        logger.info("%d videos: planned without looking into them (at most %d)", len(items), MAX_PROBED)
        return {}
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(
            zip((item.item_id for item in items), pool.map(lambda item: _probe(item, scratch_dir), items), strict=True)
        )


def _probe(item: WorkItem, scratch_dir: str | None) -> Probed:
    try:
        if is_image(name_of(item.video_uri)):
            # Scenes are many, and asking a store for each of their files would take longer than the plan is worth.
            is_local = split_uri(item.video_uri)[0] == LOCAL
            return Probed(num_frames=1, num_bytes=_bytes_with_modalities(item, None) if is_local else None)
        if _is_remote_folder(item.video_uri):
            return Probed(num_frames=None, num_bytes=_bytes_with_modalities(item, None))
        with open_input(item.video_uri, access="ranges", scratch_dir=scratch_dir) as handle:
            source = handle.local_path or handle.file
            assert source is not None, "an input handle has a path or a file"
            facts = probe(source, name=item.video_uri, fps=item.fps)
            num_bytes = _bytes_with_modalities(item, handle.bytes or facts.num_bytes)
            return Probed(num_frames=facts.num_frames, num_bytes=num_bytes)
    except MasklakeError as error:
        logger.debug("%s: not probed: %s", item.video_id, error)
        return Probed(num_frames=None, num_bytes=None)


def _bytes_with_modalities(item: WorkItem, video_bytes: int | None) -> int | None:
    """Size of all that the item reads, None where part of it is unknown or not there; None as `video_bytes` asks."""
    try:
        sizes = [video_bytes or input_bytes(item.video_uri)]
        sizes += [input_bytes(uri) for uri in chain(*map(stacked_uris, item.modalities.values()))]
    except MasklakeError:
        return None
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _is_remote_folder(uri: str) -> bool:
    """Whether looking into it would download it whole: by its name, since asking costs a request."""
    return split_uri(uri)[0] != LOCAL and "." not in name_of(uri)
