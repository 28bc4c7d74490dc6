"""The order of work within a clip, without any network."""

import numpy as np
import pytest
import torch

from pipeline.models.image_encoding import ImageFeatures, StageState
from pipeline.models.memory import MemoryEntry
from pipeline.models.memory_policies import LastFrames
from pipeline.models.samwise_clip import Buckets, ClipInFlight, ClipStep, Expression, RowMask, cut_chunks, cut_waves
from pipeline.models.samwise_network import FusedClip
from pipeline.models.samwise_rows import ExpressionMemory

POLICY = LastFrames(num_recent=2, num_pointers=3)


def expressions(*lengths: int) -> list[Expression]:
    return [Expression(object_id=i, token_ids=(0,) * length) for i, length in enumerate(lengths, start=1)]


def row_mask(switched: bool = False) -> RowMask:
    return RowMask(
        mask_yx=np.zeros((2, 3), np.bool_), object_score=1.0, predicted_iou=0.5, stability=1.0, switched=switched
    )


def entry() -> MemoryEntry:
    return MemoryEntry(
        frame_index=0, pointer_D=torch.ones(4), features_Chw=torch.ones(2, 3, 5), object_score=1.0, predicted_iou=0.5
    )


def do(clip: ClipInFlight, step: ClipStep) -> ClipInFlight:
    """The step as a stage would do it, with empty tensors."""
    if step.stage == "encode":
        return clip.after_encoding(StageState(maps=(torch.zeros(len(step.frames), 1, 2, 2),)))
    if step.stage == "fuse":
        rows = len(step.expressions) * clip.num_frames
        maps = ImageFeatures(
            high_res=(torch.zeros(rows, 1, 8, 8), torch.zeros(rows, 1, 4, 4)),
            map_BDhw=torch.zeros(rows, 1, 2, 2),
            pos_BDhw=torch.zeros(rows, 1, 2, 2),
        )
        return clip.after_fusing(FusedClip(features=maps, prompt_BSE=torch.zeros(len(step.expressions), 1, 4)))
    memories = [clip.memories[index].followed_by(entry(), switched=False, policy=POLICY) for index in step.expressions]
    return clip.after_decoding(step, memories, [row_mask()] * len(memories))


def work_through(clip: ClipInFlight, buckets: Buckets) -> tuple[ClipInFlight, list[tuple[str, list[int], list[int]]]]:
    done = []
    while (step := clip.next_step(buckets)) is not None:
        done.append((step.stage, list(step.frames), list(step.expressions)))
        clip = do(clip, step)
    return clip, done


def test_expressions_of_equal_shape_share_chunks_and_others_do_not() -> None:
    assert cut_chunks(["a", "b", "a", "a", "b"], size=2) == ((0, 2), (3,), (1, 4))
    assert cut_chunks([], size=2) == ()
    motion = Expression(object_id=1, token_ids=(0, 5, 2), motion_tokens=(1,))
    assert motion.shape != Expression(object_id=2, token_ids=(0, 5, 2)).shape


def test_chunks_are_gathered_into_waves_as_wide_as_a_batch_of_rows() -> None:
    buckets = Buckets(encode=8, fuse=2, decode=3)
    plain = [(3, False), (4, False), (3, False), (5, False), (3, False)]
    assert cut_waves(plain, buckets) == (((0, 2), (4,)), ((1,), (3,)))
    assert cut_waves([(3, False), (3, True), (4, True)], buckets) == (((0,),), ((1,), (2,)))
    assert cut_waves(plain, Buckets(encode=8, fuse=4, decode=1)) == (((0, 2, 4),), ((1,),), ((3,),))


def test_a_wave_is_decoded_through_all_frames_before_the_next_is_fused() -> None:
    buckets = Buckets(encode=8, fuse=2, decode=2)
    start = ClipInFlight.begin(2, expressions(3, 4, 3), [ExpressionMemory.empty()] * 3, buckets)
    clip, done = work_through(start, buckets)
    assert done == [
        ("encode", [0, 1], []),
        ("fuse", [0, 1], [0, 2]),
        ("decode", [0], [0, 2]),
        ("decode", [1], [0, 2]),
        ("fuse", [0, 1], [1]),
        ("decode", [0], [1]),
        ("decode", [1], [1]),
    ]
    assert [len(masks) for masks in clip.masks] == [2, 2, 2]
    assert [memory.position for memory in clip.memories] == [2, 2, 2]


def test_chunks_of_a_wave_are_decoded_together_from_the_rows_of_their_own_features() -> None:
    buckets = Buckets(encode=8, fuse=2, decode=4)
    clip = ClipInFlight.begin(3, expressions(3, 4, 3), [ExpressionMemory.empty()] * 3, buckets)
    steps = []
    while (step := clip.next_step(buckets)) is not None:
        steps.append(step)
        clip = do(clip, step)
    assert [step.stage for step in steps] == ["encode", "fuse", "fuse", "decode", "decode", "decode"]
    assert [step.expressions for step in steps[3:]] == [(0, 2, 1)] * 3
    # Expression 2 is second in its chunk: its frames come after the three of expression 0.
    assert [step.rows for step in steps[3:]] == [((0, 3), (0,)), ((1, 4), (1,)), ((2, 5), (2,))]


def test_small_buckets_cut_frames_and_rows() -> None:
    buckets = Buckets(encode=2, fuse=3, decode=2)
    start = ClipInFlight.begin(3, expressions(3, 3, 3), [ExpressionMemory.empty()] * 3, buckets)
    _, done = work_through(start, buckets)
    assert done[:3] == [("encode", [0, 1], []), ("encode", [2], []), ("fuse", [0, 1, 2], [0, 1, 2])]
    assert done[3:] == [("decode", [frame], rows) for frame in range(3) for rows in ([0, 1], [2])]


def test_the_prefix_goes_with_the_last_fusion_and_features_with_the_last_row() -> None:
    buckets = Buckets(encode=8, fuse=1, decode=2)
    clip = ClipInFlight.begin(2, expressions(3, 3, 3), [ExpressionMemory.empty()] * 3, buckets)
    held = []
    while (step := clip.next_step(buckets)) is not None:
        clip = do(clip, step)
        held.append((step.stage, len(clip.prefix), len(clip.fused)))
    assert held == [
        ("encode", 1, 0),
        ("fuse", 1, 1),
        ("fuse", 1, 2),
        ("decode", 1, 2),
        ("decode", 1, 0),
        ("fuse", 0, 1),
        ("decode", 0, 1),
        ("decode", 0, 0),
    ]
    assert clip.num_bytes() == sum(mask.mask_yx.nbytes for masks in clip.masks for mask in masks)


def test_a_step_leaves_the_clip_it_began_with_as_it_was() -> None:
    buckets = Buckets(encode=8, fuse=1, decode=1)
    clip = ClipInFlight.begin(1, expressions(3), [ExpressionMemory.empty()], buckets)
    before = []
    while (step := clip.next_step(buckets)) is not None:
        before.append((clip, step, len(clip.memories[0].bank), len(clip.masks[0])))
        clip = do(clip, step)
    for earlier, step, num_entries, num_masks in before:
        assert earlier.next_step(buckets) == step
        assert (len(earlier.memories[0].bank), len(earlier.masks[0])) == (num_entries, num_masks)


def test_groups_tell_what_may_share_a_batch() -> None:
    buckets = Buckets(encode=8, fuse=1, decode=1)
    short, long = expressions(3), expressions(5)
    one = ClipInFlight.begin(2, short, [ExpressionMemory.empty()], buckets)
    other = ClipInFlight.begin(2, long, [ExpressionMemory.empty()], buckets)
    groups = []
    for clip, expressions_ in ((one, short), (other, long)):
        found = []
        while (step := clip.next_step(buckets)) is not None:
            found.append((step.stage, clip.group(step, POLICY, expressions_)))
            clip = do(clip, step)
        groups.append(found)
    alike = [mine == yours for mine, yours in zip(*groups, strict=True)]
    assert alike == [True, False, True, True], "only fusing depends on the number of tokens"
    assert groups[0][2] != groups[0][3], "the second frame reads a memory, the first does not"


def test_memory_keeps_what_the_policy_reads_and_no_more() -> None:
    memory = ExpressionMemory.empty()
    for frame in range(9):
        memory = memory.followed_by(entry(), switched=frame == 5, policy=POLICY)
    assert (memory.position, memory.last_switch) == (9, 5)
    assert [kept.frame_index for kept in memory.bank] == [6, 7, 8]
    assert [kept.features_Chw is not None for kept in memory.bank] == [False, True, True]
    selection = POLICY.select(memory.bank, memory.position)
    assert [read.entry.frame_index for read in selection.frames] == [7, 8]
    assert [read.temporal_position for read in selection.frames] == [1, 0]
    assert [read.entry.frame_index for read in selection.pointers] == [8, 7, 6]


@pytest.mark.parametrize("window", [1, 4])
def test_an_empty_memory_is_not_questioned(window: int) -> None:
    assert not ExpressionMemory.empty().is_cme_due(window=window)
