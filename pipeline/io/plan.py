"""Planning: from a manifest's items to work units, less what is settled; pure, so that a test can compare plans."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from schemas.work_unit import WorkItem, WorkUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUnit:
    """A unit and what is known of it beforehand.

    Attributes:
        frames: frames to read of each item, None where the source's length is unknown.
    """

    unit: WorkUnit
    frames: tuple[int | None, ...]

    @property
    def num_frames(self) -> int | None:
        return _sum(self.frames)

    @property
    def query_frames(self) -> int | None:
        """Frames times objects or expressions asked for: the masks that will come out. 1 where none is asked for."""
        return _sum(
            None if frames is None else frames * max(len(item.queries), 1)
            for item, frames in zip(self.unit.items, self.frames, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done, and what was left out because it is settled.

    Attributes:
        planned: in the order of the manifest.
        settled: items (after cutting long videos into ranges) that already have an outcome.
        num_other_shards: items left to other shards.
    """

    planned: tuple[PlannedUnit, ...]
    settled: tuple[WorkItem, ...] = ()
    num_other_shards: int = 0

    @property
    def units(self) -> tuple[WorkUnit, ...]:
        return tuple(planned.unit for planned in self.planned)

    @property
    def num_items(self) -> int:
        """Items to be done."""
        return sum(len(planned.unit.items) for planned in self.planned)

    @property
    def num_frames(self) -> int | None:
        """Frames to be read; None if that of any item is unknown."""
        return _sum(planned.num_frames for planned in self.planned)

    def limit(self, num_units: int | None) -> "Plan":
        """The first units only; all of them for None."""
        return self if num_units is None else dataclasses.replace(self, planned=self.planned[:num_units])


def plan_units(
    items: Iterable[WorkItem],
    *,
    run_id: str,
    method: str,
    config_hash: str,
    settled: Collection[str] = frozenset(),
    unit_frames: int | None = None,
    pack_frames: int | None = None,
    frames_of: Mapping[str, int] | None = None,
    align: int = 1,
    shard: tuple[int, int] | None = None,
) -> Plan:
    """Cut long videos into ranges, drop what is settled, take this shard's share, pack the short ones.

    By default one item is one unit. Frames are counted as they are read: every stride-th of the item's range.

    Args:
        settled: ids of items that have an outcome; best a set.
        unit_frames: cut items longer than this. A range begins with an empty memory, so an item with points, boxes or
            masks stays whole, and so does one of unknown length.
        pack_frames: join items of known length into units of up to this many frames.
        frames_of: id of a manifest's item to the frames its source has in all, as far as they are known.
        align: ranges begin at multiples of this many frames: the method's clip length.
        shard: (i, n) with 0 <= i < n: only items whose digest falls to i. By item and before packing, so that an item
            belongs to one shard whatever is settled when the shards start.

    Raises:
        ValueError: a number is out of range.
    """
    _check(unit_frames=unit_frames, pack_frames=pack_frames, align=align)
    mine: list[tuple[WorkItem, int | None]] = []
    done: list[WorkItem] = []
    others = 0
    for item, item_id, frames in _cut_all(items, settled, frames_of or {}, unit_frames, align):
        if item_id in settled:
            done.append(item)
        elif shard is not None and not _falls_to(item_id, shard):
            others += 1
        else:
            mine.append((item, frames))
    planned = tuple(
        PlannedUnit(
            unit=WorkUnit(
                run_id=run_id, method=method, config_hash=config_hash, items=tuple(item for item, _ in members)
            ),
            frames=tuple(frames for _, frames in members),
        )
        for members in _pack(mine, pack_frames)
    )
    return Plan(planned=planned, settled=tuple(done), num_other_shards=others)


def frames_to_read(item: WorkItem, source_frames: int | None) -> int | None:
    """How many frames the item's range and stride select; None if neither the range nor the source has a known end.

    With an end_frame and a source of unknown length, the most it can be.
    """
    ends = [end for end in (item.end_frame, source_frames) if end is not None]
    return max(0, -(-(min(ends) - item.start_frame) // item.stride)) if ends else None


def cut(item: WorkItem, source_frames: int | None, *, unit_frames: int, align: int) -> tuple[WorkItem, ...]:
    """The item as ranges of about unit_frames frames, each beginning at a multiple of align; itself if it is short.

    A rest of less than half a range joins the range before it. The last range has the item's own end, so that
    a source longer than was thought loses no frame.
    """
    frames = frames_to_read(item, source_frames)
    if frames is None or frames <= unit_frames or any(query.frame_index is not None for query in item.queries):
        return (item,)
    size = max(1, unit_frames // align) * align
    num_ranges = max(1, frames // size + (2 * (frames % size) >= size))
    starts = [item.start_frame + index * size * item.stride for index in range(num_ranges)]
    ends = [*starts[1:], item.end_frame]
    return tuple(
        dataclasses.replace(item, start_frame=start, end_frame=end) for start, end in zip(starts, ends, strict=True)
    )


def _cut_all(
    items: Iterable[WorkItem],
    settled: Collection[str],
    frames_of: Mapping[str, int],
    unit_frames: int | None,
    align: int,
) -> Iterator[tuple[WorkItem, str, int | None]]:
    """Items as ranges, with their ids and frames; one that is settled whole is not cut."""
    for whole in items:
        whole_id = whole.item_id
        source_frames = frames_of.get(whole_id)
        if unit_frames is None or whole_id in settled:
            yield whole, whole_id, frames_to_read(whole, source_frames)
            continue
        for item in cut(whole, source_frames, unit_frames=unit_frames, align=align):
            item_id = whole_id if item is whole else item.item_id
            yield item, item_id, frames_to_read(item, source_frames)


def _pack(
    items: Sequence[tuple[WorkItem, int | None]], pack_frames: int | None
) -> Iterator[list[tuple[WorkItem, int | None]]]:
    """Groups in the order of their first items; what is long or of unknown length stays alone."""
    groups: list[list[tuple[WorkItem, int | None]]] = []
    open_group: list[tuple[WorkItem, int | None]] | None = None
    room = 0
    for item, frames in items:
        if pack_frames is None or frames is None or frames > pack_frames:
            groups.append([(item, frames)])
            continue
        if open_group is None or frames > room:
            open_group, room = [], pack_frames
            groups.append(open_group)
        open_group.append((item, frames))
        room -= frames
    yield from groups


def _falls_to(item_id: str, shard: tuple[int, int]) -> bool:
    index, count = shard
    return int(item_id[:8], 16) % count == index


def _check(*, unit_frames: int | None, pack_frames: int | None, align: int) -> None:
    for name, value in (("unit_frames", unit_frames), ("pack_frames", pack_frames), ("align", align)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: expected at least 1.")


def _sum(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
