"""Who reads which memory: closed forms, and SAM2's own rule against upstream's code over random banks."""

import random
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.models.memory import MemoryBank, MemoryEntry, MemorySelection
from pipeline.models.memory_attention import time_code
from pipeline.models.memory_policies import LastFrames, MemoryPolicy, RecentFrames, closest_conditioning
from pipeline.models.sam2_core import Sam2Core, build_sam2
from pipeline.models.sam2_variants import Sam2Config
from tests.parity.random_sam2 import SAM_2_0, tiny_config


def entry(frame_index: int, *, is_conditioning: bool = False) -> MemoryEntry:
    return MemoryEntry(
        frame_index=frame_index,
        pointer_D=torch.full((64,), float(frame_index)),
        features_Chw=torch.full((16, 8, 8), float(frame_index)),
        object_score=1.0,
        predicted_iou=1.0,
        is_conditioning=is_conditioning,
    )


def bank_of(recent: Any = (), prompted: Any = ()) -> MemoryBank:
    bank = MemoryBank()
    for index in prompted:
        bank.add(entry(index, is_conditioning=True))
    for index in recent:
        bank.add(entry(index))
    return bank


def frames(selection: MemorySelection) -> list[tuple[int, int]]:
    return [(read.entry.frame_index, read.temporal_position) for read in selection.frames]


def pointers(selection: MemorySelection) -> list[tuple[int, int]]:
    return [(read.entry.frame_index, read.time_difference) for read in selection.pointers]


def test_recent_frames_reads_the_prompted_frame_and_the_six_before() -> None:
    selection = RecentFrames().select(bank_of(range(1, 30), prompted=[0]), 30)
    assert frames(selection) == [(0, 6), (24, 5), (25, 4), (26, 3), (27, 2), (28, 1), (29, 0)]
    assert pointers(selection) == [(0, 30)] + [(30 - back, back) for back in range(1, 16)]
    assert selection.max_time_difference == 15


def test_recent_frames_skips_frames_that_are_not_there() -> None:
    selection = RecentFrames(num_recent=3).select(bank_of([8], prompted=[7]), 10)
    assert frames(selection) == [(7, 3), (8, 1)]
    assert pointers(selection) == [(7, 3), (8, 2)]


def test_recent_frames_reads_nothing_before_anything_was_prompted() -> None:
    assert RecentFrames().select(MemoryBank(), 5).is_empty


def test_a_short_video_has_fewer_pointers_on_a_finer_scale() -> None:
    bank = bank_of(range(1, 8), prompted=[0])
    short = RecentFrames(num_frames=5).select(bank, 8)
    assert pointers(short) == [(0, 8), (7, 1), (6, 2), (5, 3), (4, 4)]
    assert short.max_time_difference == 4
    assert RecentFrames(num_frames=1).select(bank, 0).max_time_difference == 1
    assert RecentFrames(num_frames=400).select(bank, 8) == RecentFrames().select(bank, 8)


def test_pointers_of_frames_to_come_are_left_out_or_signed() -> None:
    bank = bank_of([3], prompted=[9, 1])
    assert pointers(RecentFrames().select(bank, 4)) == [(1, 3), (3, 1)]
    everything = RecentFrames(only_past_pointers=False)
    assert pointers(everything.select(bank, 4)) == [(9, -5), (1, 3), (3, 1)]
    unsigned = everything.model_copy(update={"signed_time": False})
    assert pointers(unsigned.select(bank, 4)) == [(9, 5), (1, 3), (3, 1)]


def test_tracking_in_reverse_mirrors_tracking_forward() -> None:
    last = 40
    forward = RecentFrames().select(bank_of(range(5, 30), prompted=[4, 33]), 30)
    mirrored = bank_of([last - index for index in range(5, 30)], prompted=[last - 4, last - 33])
    backward = RecentFrames(reverse=True).select(mirrored, last - 30)
    assert frames(backward) == [(last - index, position) for index, position in frames(forward)]
    assert pointers(backward) == [(last - index, time) for index, time in pointers(forward)]


def test_in_reverse_the_raster_of_a_stride_stays_where_it_is() -> None:
    policy = RecentFrames(num_recent=4, stride=3, reverse=True)
    selection = policy.select(bank_of(range(1, 30), prompted=[0]), 10)
    assert frames(selection) == [(0, 4), (18, 3), (15, 2), (12, 1), (11, 0)]


def test_a_stride_reads_every_third_frame_of_a_fixed_raster_and_the_one_just_passed() -> None:
    selection = RecentFrames(num_recent=4, stride=3).select(bank_of(range(1, 30), prompted=[0]), 20)
    assert frames(selection) == [(0, 4), (12, 3), (15, 2), (18, 1), (19, 0)]


def test_at_most_so_many_conditioning_frames_before_and_after_first() -> None:
    bank = bank_of(prompted=[50, 0, 10, 12, 14])
    assert closest_conditioning(bank, 20, None) == [50, 0, 10, 12, 14]
    assert closest_conditioning(bank, 20, 2) == [14, 50]
    assert closest_conditioning(bank, 20, 4) == [14, 50, 12, 10]
    assert closest_conditioning(bank, 60, 2) == [50, 14]
    unread = RecentFrames(num_recent=3, max_conditioning=2).select(bank_of(prompted=[0, 1, 2, 3]), 4)
    assert frames(unread) == [(3, 3), (2, 3), (1, 2)]


def test_last_frames_forgets_even_the_first_frame() -> None:
    bank = bank_of(range(40))
    selection = LastFrames().select(bank, 40)
    assert frames(selection) == [(34, 5), (35, 4), (36, 3), (37, 2), (38, 1), (39, 0)]
    assert pointers(selection) == [(40 - back, back) for back in range(1, 16)]


@pytest.mark.parametrize("frame_index", [1, 2, 5, 6, 7, 14, 15, 16, 17])
def test_last_frames_grows_with_the_video(frame_index: int) -> None:
    selection = LastFrames().select(bank_of(range(frame_index)), frame_index)
    assert len(selection.frames) == min(frame_index, 6)
    assert len(selection.pointers) == min(frame_index + 1, 16) - 1
    assert frames(selection)[-1] == (frame_index - 1, 0)


def test_last_frames_reads_nothing_on_the_first_frame_and_after_a_long_gap() -> None:
    assert LastFrames().select(MemoryBank(), 0).is_empty
    assert LastFrames().select(bank_of(range(3)), 12).is_empty


@pytest.mark.parametrize("policy", [RecentFrames(), RecentFrames(num_recent=3, stride=4), LastFrames(num_pointers=3)])
def test_forgetting_beyond_the_horizon_changes_no_later_selection(policy: MemoryPolicy) -> None:
    whole, bounded = bank_of(prompted=[0]), bank_of(prompted=[0])
    for index in range(1, 60):
        kept, full = policy.select(bounded, index), policy.select(whole, index)
        assert (frames(kept), pointers(kept)) == (frames(full), pointers(full))
        for bank in (whole, bounded):
            bank.add(entry(index))
        bounded.forget(policy.horizon)
    assert len(bounded) < 25


def test_selecting_changes_nothing() -> None:
    bank = bank_of(range(1, 9), prompted=[0])
    assert RecentFrames().select(bank, 9) == RecentFrames().select(bank, 9)
    assert list(bank.recent) == list(range(1, 9))


def test_misspelt_or_impossible_policies_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_recents"):
        RecentFrames(num_recents=3)
    with pytest.raises(ValidationError):
        RecentFrames(max_conditioning=1)


class Recorder(nn.Module):
    """Stands in for memory attention and keeps what upstream would have attended to."""

    def forward(self, curr: Any, curr_pos: Any, memory: Any, memory_pos: Any, num_obj_ptr_tokens: int) -> Any:
        self.memory, self.position, self.num_pointer_tokens = memory[:, 0], memory_pos[:, 0], num_obj_ptr_tokens
        return curr[0]


def what_upstream_reads(
    core: Sam2Core, bank: MemoryBank, frame_index: int, *, num_frames: int, reverse: bool
) -> tuple[list[tuple[float, float]], list[float], torch.Tensor]:
    """Frames with temporal rows, pointers, and the pointers' time codes, read off the recorded tokens."""
    cells, per_pointer = core.config.grid**2, core.config.tokens_per_pointer
    outputs = {
        kind: {
            e.frame_index: {
                "maskmem_features": e.features_Chw[None],
                "maskmem_pos_enc": [torch.zeros(1, 16, 8, 8)],
                "obj_ptr": e.pointer_D[None],
            }
            for e in entries.values()
        }
        for kind, entries in (("cond_frame_outputs", bank.conditioning), ("non_cond_frame_outputs", bank.recent))
    }
    core.model._prepare_memory_conditioned_features(
        frame_idx=frame_index,
        is_init_cond_frame=False,
        current_vision_feats=[torch.zeros(cells, 1, 64)],
        current_vision_pos_embeds=[torch.zeros(cells, 1, 64)],
        feat_sizes=[(8, 8)],
        output_dict=outputs,
        num_frames=num_frames,
        track_in_reverse=reverse,
    )
    seen: Recorder = core.model.memory_attention
    spatial = len(seen.memory) - seen.num_pointer_tokens
    rows = [(float(seen.memory[i, 0]), float(seen.position[i, 0])) for i in range(0, spatial, cells)]
    return rows, seen.memory[spatial::per_pointer, 0].tolist(), seen.position[spatial::per_pointer]


@pytest.mark.parametrize("family", ["2.0", "2.1"])
@torch.inference_mode()
def test_recent_frames_reads_what_sam2_track_step_reads(family: str) -> None:
    draw = random.Random(family)
    for _ in range(150):
        changes: dict[str, Any] = dict(SAM_2_0) if family == "2.0" else {"proj_tpos_enc_in_obj_ptrs": False}
        changes["memory_temporal_stride_for_eval"] = draw.choice([1, 1, 2, 3, 5])
        changes["max_cond_frames_in_attn"] = draw.choice([-1, 2, 3])
        changes["only_obj_ptrs_in_the_past_for_eval"] = draw.random() < 0.7
        changes["num_maskmem"] = draw.choice([2, 4, 7])
        core = recording_core(tiny_config(**changes))
        num_frames, reverse = draw.choice([4, 9, 20, 40]), draw.random() < 0.4
        prompted = draw.sample(range(num_frames), draw.randint(1, min(5, num_frames)))
        recent = [f for f in range(num_frames) if f not in prompted and draw.random() < 0.8]
        bank, frame_index = bank_of(recent, prompted), draw.randrange(num_frames)
        policy = RecentFrames.of(core.config, num_frames=num_frames, reverse=reverse)
        ours = policy.select(bank, frame_index)
        rows, read_pointers, codes = what_upstream_reads(
            core, bank, frame_index, num_frames=num_frames, reverse=reverse
        )
        assert frames(ours) == rows
        assert [index for index, _ in pointers(ours)] == read_pointers
        if family == "2.1" and ours.pointers:
            times = torch.tensor([time / ours.max_time_difference for _, time in pointers(ours)])
            torch.testing.assert_close(time_code(times, 16), codes, rtol=0.0, atol=1e-6)


SWITCHES = ("memory_temporal_stride_for_eval", "max_cond_frames_in_attn", "only_obj_ptrs_in_the_past_for_eval")


def recording_core(config: Sam2Config) -> Sam2Core:
    """A model whose temporal rows hold their own numbers and whose memory attention records."""
    core = built(config.model_copy(update={name: Sam2Config.model_fields[name].default for name in SWITCHES}))
    for name in SWITCHES:
        setattr(core.model, name, getattr(config, name))
    core.config = config
    return core


@cache
def built(config: Sam2Config) -> Sam2Core:
    core = build_sam2(config, seed=0)
    table = core.model.maskmem_tpos_enc
    table.data.copy_(torch.arange(len(table)).view(-1, 1, 1, 1).expand_as(table))
    core.model.memory_attention = Recorder()
    return core
