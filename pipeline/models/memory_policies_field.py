"""Memory rules of other trackers built on SAM2, from their published descriptions: SAMURAI's and DAM4SAM's.

SAM2Long (Ding et al., arXiv 2410.16268) is not among them: it keeps three pathways, each with its own memory, and
decides at the video's end which one was right. A session here gives each frame's masks out once, in order, with
bounded lag; a mask given out on frame t could be revoked by a pathway that wins later, so the tree does not fit.
"""

from dataclasses import replace
from statistics import median

from pydantic import Field

from pipeline.models.memory import MemoryBank, MemoryEntry, MemoryRead, MemorySelection
from pipeline.models.memory_policies_tracking import PoolPolicy, keep_only, with_entry

SAM2LONG_REFUSED = (
    "policy 'sam2long' is not offered: SAM2Long (arXiv 2410.16268) chooses among its memory pathways when the video "
    "has ended, and masks are given out frame by frame here. Use 'mosam', 'samurai', 'dam4sam' or 'sam2'."
)


class MotionAwareMemory(PoolPolicy):
    """SAMURAI's memory: of the frames passed, those whose mask, presence and motion were trusted.

    Source: Yang et al., SAMURAI, arXiv 2411.11922, section 4.2 "Motion-aware memory selection", and its released
    configuration: from the frame just passed back, frames with predicted IoU above 0.5, object score above 0 and
    Kalman IoU above 0 count until 15 are found; the newest 6 are read by rank; the frame just passed always is.
    Departs from its released code, whose motion test reads a key that is never stored and so never acts: here it does,
    wherever a stable filter foretold a box. Pointers are SAM2's.

    Attributes:
        min_predicted_iou, min_object_score, min_kalman_iou: a frame must exceed all three.
        pool_frames: frames searched for.
        first_frame: frames before it count as prompted or too early.
    """

    min_predicted_iou: float = Field(default=0.5, ge=0, le=1)
    min_object_score: float = 0.0
    min_kalman_iou: float = Field(default=0.0, ge=0, le=1)
    pool_frames: int = Field(default=15, ge=1)
    first_frame: int = Field(default=2, ge=0)

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """The newest trusted frames and the one just passed."""
        trusted = [e for e in self.in_order(bank) if e.features_Chw is not None and self.trusts(e)]
        newest = self.newest(bank, frame_index)
        chosen = trusted if newest is None else [newest, *(e for e in trusted if e is not newest)]
        return self.selection(bank, frame_index, chosen[: self.num_recent], self.recent_pointers(bank, frame_index))

    def remember(self, bank: MemoryBank, entry: MemoryEntry) -> MemoryBank:
        """Trusted frames, the one just passed, and pointers as far as they reach."""
        bank = with_entry(bank, entry)
        in_order = self.in_order(bank)
        trusted = [e for e in in_order if e.features_Chw is not None and self.trusts(e)][: self.pool_frames]
        newest = [entry] if not entry.is_conditioning else []
        reach = [e for e in in_order if abs(self.elapsed(e, entry.frame_index)) < self.max_pointers - 1]
        return keep_only(bank, [*newest, *trusted], reach)

    def trusts(self, entry: MemoryEntry) -> bool:
        """Whether a frame may be read once it is not the one just passed."""
        moved_well = entry.kalman_iou is None or entry.kalman_iou > self.min_kalman_iou
        return (
            entry.frame_index >= self.first_frame
            and entry.predicted_iou > self.min_predicted_iou
            and entry.object_score > self.min_object_score
            and moved_well
        )


class DistractorAwareMemory(PoolPolicy):
    """DAM4SAM's memory: recent frames for what the object looks like, anchors for what it is not.

    Source: Videnovic, Lukezic, Kristan, DAM4SAM, arXiv 2411.17576, section 3.2. Recent appearance memory: every 5th
    frame, and the one just passed, if the mask has a pixel. Distractor resolving memory: up to 4 frames, the prompted
    one included, without temporal code; a frame enters it when the mask is good (predicted IoU above 0.8), its area is
    usual (0.8 .. 1.2 of the median of the last 10), the last anchor is more than 5 frames back, and another candidate
    saw something beside the object: the box of the mask joined to the largest part outside it overlaps the mask's
    own box by 0.7 or less. How the memory's slots divide is our choice: anchors take theirs from the recent ones.

    Attributes:
        num_anchors: prompted frames and anchors together.
        stride: of the recent memory.
        min_predicted_iou, area_range, area_frames, min_gap, max_alternative_iou: see above.
    """

    num_anchors: int = Field(default=4, ge=1)
    stride: int = Field(default=5, ge=1)
    min_predicted_iou: float = Field(default=0.8, ge=0, le=1)
    area_range: tuple[float, float] = (0.8, 1.2)
    area_frames: int = Field(default=10, ge=1)
    min_gap: int = Field(default=5, ge=0)
    max_alternative_iou: float = Field(default=0.7, ge=0, le=1)

    @property
    def wants_alternatives(self) -> bool:
        return True

    @property
    def num_latest(self) -> int:
        """Slots of the recent memory."""
        return max(1, self.num_recent + 1 - self.num_anchors)

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """Prompted frames and anchors without temporal code, then the recent memory by rank."""
        whole = [e for e in self.in_order(bank) if e.features_Chw is not None]
        latest = [e for e in whole if not e.is_anchor or e is self.newest(bank, frame_index)]
        pointers = self.recent_pointers(bank, frame_index)
        ranked = self.selection(bank, frame_index, latest[: self.num_latest], pointers)
        if ranked.is_empty:
            return ranked
        read = {id(r.entry) for r in ranked.frames}
        anchors = [e for e in reversed(whole) if e.is_anchor and id(e) not in read]
        prompted = [MemoryRead(entry=e, temporal_position=None) for e in [*bank.conditioning.values(), *anchors]]
        tracked = [r for r in ranked.frames if not r.entry.is_conditioning]
        return MemorySelection(
            frames=(*prompted, *tracked),
            pointers=ranked.pointers,
            max_time_difference=ranked.max_time_difference,
        )

    def remember(self, bank: MemoryBank, entry: MemoryEntry) -> MemoryBank:
        """Sort the frame into the two memories; areas and pointers stay as far as they are asked."""
        if entry.is_conditioning:
            return with_entry(bank, entry)
        is_anchor = self._resolves(bank, entry)
        entry = replace(entry, is_anchor=True) if is_anchor else entry
        bank = with_entry(bank, entry)
        in_order = self.in_order(bank)
        whole = [e for e in in_order if e.features_Chw is not None and e.num_inside != 0]
        anchors = [e for e in whole if e.is_anchor][: max(0, self.num_anchors - len(bank.conditioning))]
        on_raster = [e for e in whole if e is entry or (e.frame_index % self.stride == 0 and not e.is_anchor)]
        reach = [e for e in in_order if self.elapsed(e, entry.frame_index) < self.max_pointers - 1]
        seen = [e for e in in_order if e.num_inside][: self.area_frames]
        return keep_only(bank, [*anchors, *on_raster[: self.num_latest + 1]], [*reach, *seen])

    def _resolves(self, bank: MemoryBank, entry: MemoryEntry) -> bool:
        in_order = self.in_order(bank)
        areas = [e.num_inside for e in in_order if e.num_inside][: self.area_frames]
        anchors = [e for e in in_order if e.is_anchor] + list(bank.conditioning.values())
        gap = min((abs(self.elapsed(e, entry.frame_index)) for e in anchors), default=self.min_gap + 1)
        if not areas or not entry.num_inside or entry.alternative_iou is None:
            return False
        low, high = (bound * median(areas) for bound in self.area_range)
        return (
            entry.object_score > 0
            and entry.predicted_iou > self.min_predicted_iou
            and low <= entry.num_inside <= high
            and gap > self.min_gap
            and entry.alternative_iou <= self.max_alternative_iou
        )
