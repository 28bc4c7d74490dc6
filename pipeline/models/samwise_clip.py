"""A clip on its way through SAMWISE: what to do next for which expressions; decides and computes nothing."""

# Axes: T frames of a clip, E expressions of a chunk, y x the decoded frame.

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from pipeline.models.image_encoding import StageState
from pipeline.models.memory import MemorySelection
from pipeline.models.memory_policies import LastFrames
from pipeline.models.samwise_network import FusedClip
from pipeline.models.samwise_rows import ExpressionMemory
from pipeline.ticks import Mask

ENCODE: Literal["encode"] = "encode"
FUSE: Literal["fuse"] = "fuse"
DECODE: Literal["decode"] = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One expression as the network reads it.

    Attributes:
        object_id: as in its prompt.
        token_ids: begin and end tokens included.
        motion_tokens: places of the tokens that tell motion; empty for no motion prompt.
    """

    object_id: int
    token_ids: tuple[int, ...]
    motion_tokens: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, bool]:
        """Expressions of equal shape may be fused in one batch without padding."""
        return len(self.token_ids), bool(self.motion_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMask:
    """What one row gave: the mask at the decoded frame's size, and its numbers as in ObjectMask."""

    mask_yx: Mask
    object_score: float
    predicted_iou: float
    stability: float
    switched: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """Places per batch: frames to encode, expressions to fuse with a clip, rows to decode."""

    encode: int
    fuse: int
    decode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipStep:
    """The next thing to do with a clip.

    Attributes:
        stage: ENCODE, FUSE or DECODE.
        frames: [start, stop) within the clip.
        expressions: indices of the video's expressions; none to encode.
        rows: to DECODE, per chunk of the wave the rows of its features that these expressions are on this frame.
    """

    stage: Literal["encode", "fuse", "decode"]
    frames: range
    expressions: tuple[int, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()

    @property
    def size(self) -> int:
        return len(self.frames) if self.stage == ENCODE else len(self.expressions)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipInFlight:
    """One clip, half done; a value, so that a failed step leaves it as it was.

    Expressions are fused in chunks, since only those of one length can share that batch, and decoded in waves of
    as many chunks as one batch of rows has room for. A wave is decoded through all frames before the next one is
    fused, so that only one wave's features are held.

    Attributes:
        num_frames: T.
        waves: chunks of expressions, wave by wave.
        memories: per expression, up to the last decoded frame.
        masks: per expression, those of the frames decoded so far.
        prefix: what all expressions share, in parts; empty again once the last chunk is fused.
        num_encoded: frames in `prefix`.
        wave: the one at work.
        fused: the features of its chunks, as far as they are fused; frames of an expression are neighbours.
        num_decoded: rows of it that are done, frame by frame.
    """

    num_frames: int
    waves: tuple[tuple[tuple[int, ...], ...], ...]
    memories: tuple[ExpressionMemory, ...]
    masks: tuple[tuple[RowMask, ...], ...]
    prefix: tuple[StageState, ...] = ()
    num_encoded: int = 0
    wave: int = 0
    fused: tuple[FusedClip, ...] = ()
    num_decoded: int = 0

    @classmethod
    def begin(
        cls, num_frames: int, expressions: Sequence[Expression], memories: Sequence[ExpressionMemory], buckets: Buckets
    ) -> "ClipInFlight":
        """A clip of which nothing is done."""
        return cls(
            num_frames=num_frames,
            waves=cut_waves([expression.shape for expression in expressions], buckets),
            memories=tuple(memories),
            masks=((),) * len(expressions),
        )

    def next_step(self, buckets: Buckets) -> ClipStep | None:
        """What to do next; None when the clip is done."""
        if self.num_encoded < self.num_frames:
            stop = min(self.num_frames, self.num_encoded + buckets.encode)
            return ClipStep(stage=ENCODE, frames=range(self.num_encoded, stop))
        if self.wave == len(self.waves):
            return None
        chunks = self.waves[self.wave]
        if len(self.fused) < len(chunks):
            return ClipStep(stage=FUSE, frames=range(self.num_frames), expressions=chunks[len(self.fused)])
        return self._decode_step(chunks, buckets)

    def _decode_step(self, chunks: tuple[tuple[int, ...], ...], buckets: Buckets) -> ClipStep:
        members = [(chunk, place) for chunk, indices in enumerate(chunks) for place in range(len(indices))]
        frame, first = divmod(self.num_decoded, len(members))
        chosen = members[first : first + buckets.decode]
        return ClipStep(
            stage=DECODE,
            frames=range(frame, frame + 1),
            expressions=tuple(chunks[chunk][place] for chunk, place in chosen),
            rows=tuple(
                tuple(place * self.num_frames + frame for chunk, place in chosen if chunk == number)
                for number in range(len(chunks))
            ),
        )

    def selections(self, step: ClipStep, policy: LastFrames) -> list[MemorySelection]:
        """What the rows of a DECODE step read."""
        memories = [self.memories[index] for index in step.expressions]
        return [policy.select(memory.bank, memory.position) for memory in memories]

    def group(self, step: ClipStep, policy: LastFrames, expressions: Sequence[Expression]) -> Hashable:
        """What must be equal for steps of several videos to share a batch."""
        if step.stage == ENCODE:
            return ()
        shape = expressions[step.expressions[0]].shape
        if step.stage == FUSE:
            return self.num_frames, *shape
        # All expressions of a video are equally far, so the first one's memory has the shape of all.
        memory = self.memories[step.expressions[0]]
        return policy.select(memory.bank, memory.position).shape, shape[1]

    def after_encoding(self, part: StageState) -> "ClipInFlight":
        """With the prefix of some more frames."""
        return replace(self, prefix=(*self.prefix, part), num_encoded=self.num_encoded + part.maps[0].shape[0])

    def after_fusing(self, fused: FusedClip) -> "ClipInFlight":
        """With one more chunk's features; the last chunk of all needs the prefix no more."""
        all_fused = (*self.fused, fused)
        is_last = self.wave == len(self.waves) - 1 and len(all_fused) == len(self.waves[self.wave])
        return replace(self, fused=all_fused, prefix=() if is_last else self.prefix)

    def after_decoding(
        self, step: ClipStep, memories: Sequence[ExpressionMemory], masks: Sequence[RowMask]
    ) -> "ClipInFlight":
        """With one more frame of the step's expressions; a wave's features go with its last row."""
        all_memories, all_masks = list(self.memories), list(self.masks)
        for index, memory, mask in zip(step.expressions, memories, masks, strict=True):
            all_memories[index] = memory
            all_masks[index] = (*all_masks[index], mask)
        num_decoded = self.num_decoded + step.size
        after = replace(self, memories=tuple(all_memories), masks=tuple(all_masks), num_decoded=num_decoded)
        if num_decoded < self.num_frames * sum(len(chunk) for chunk in self.waves[self.wave]):
            return after
        return replace(after, wave=self.wave + 1, fused=(), num_decoded=0)

    def num_bytes(self) -> int:
        """Bytes held, memories not counted."""
        tensors = sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())
        return tensors + sum(mask.mask_yx.nbytes for masks in self.masks for mask in masks)

    def _tensors(self) -> Iterator[Tensor]:
        for part in self.prefix:
            yield from part.maps
        for fused in self.fused:
            yield from (*fused.features.high_res, fused.features.map_BDhw, fused.prompt_BSE)


def cut_waves(shapes: Sequence[tuple[int, bool]], buckets: Buckets) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Chunks that are fused together, gathered into waves that are decoded together.

    Args:
        shapes: per expression, number of tokens and whether it has a motion prompt. Those of a chunk are equal;
            those of a wave agree in the latter, so that all have equally many prompt tokens.
    """
    waves: list[list[tuple[int, ...]]] = []
    for has_motion in (False, True):
        members = [index for index, shape in enumerate(shapes) if shape[1] == has_motion]
        free = 0
        for chunk in cut_chunks([shapes[index] for index in members], size=buckets.fuse):
            if len(chunk) > free:
                waves.append([])
                free = buckets.decode
            waves[-1].append(tuple(members[place] for place in chunk))
            free -= len(chunk)
    return tuple(tuple(wave) for wave in waves)


def cut_chunks(shapes: Sequence[Hashable], *, size: int) -> tuple[tuple[int, ...], ...]:
    """Indices of equal shape, at most `size` together; in order of first appearance."""
    by_shape: dict[Hashable, list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(index)
    return tuple(
        tuple(indices[start : start + size]) for indices in by_shape.values() for start in range(0, len(indices), size)
    )
