"""A fast part of `python -m tests.parity sam2`, which `make parity` runs whole, and proof that it can fail."""

import pytest

from pipeline.models.memory import MemoryBank, MemoryRead, MemorySelection
from pipeline.models.memory_policies import MemoryPolicy, RecentFrames
from pipeline.models.sam2_variants import Sam2Config
from tests.parity.__main__ import main
from tests.parity.sam2 import Rule, compare
from tests.parity.sam2_cases import CASES

BY_NAME = {case.name: case for case in CASES}
QUICK = {
    "2.0: one click, 20 frames, bounded",
    "2.0: no object scores, 20 frames",
    "2.1: three objects, one prompted later, 20 frames",
    "2.1: correction that conditions, 20 frames",
    "2.1: clicks in turn on one frame, 9 frames",
    "2.1: backwards, correction on the way, 20 frames",
    "2.1: objects that come and go, 20 frames",
    "2.1: other sizes, 9 frames",
}


@pytest.mark.parametrize("name", sorted(QUICK))
def test_tracker_equals_upstreams_predictor(name: str) -> None:
    case = BY_NAME[name]
    verdict = compare(case)
    assert verdict.ok, str(verdict)
    assert verdict.num_answers >= case.num_frames
    assert verdict.share_present > 0.2, "objects are hardly ever in view: choose another seed"
    assert 0.02 < verdict.share_inside < 0.98, "masks are all but empty or full: choose another seed"


class ShiftedTime:
    """SAM2's rule with recent frames one temporal row off."""

    def __init__(self, policy: RecentFrames) -> None:
        self.policy, self.horizon = policy, policy.horizon

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        chosen = self.policy.select(bank, frame_index)
        rows = self.policy.num_recent
        frames = tuple(
            MemoryRead(entry=r.entry, temporal_position=min(r.temporal_position + 1, rows)) for r in chosen.frames
        )
        return MemorySelection(frames=frames, pointers=chosen.pointers, max_time_difference=chosen.max_time_difference)


def changed(**update: object) -> Rule:
    def rule(config: Sam2Config, num_frames: int, reverse: bool) -> MemoryPolicy:
        return RecentFrames.of(config, num_frames=num_frames, reverse=reverse).model_copy(update=update)

    return rule


def shifted(config: Sam2Config, num_frames: int, reverse: bool) -> MemoryPolicy:
    return ShiftedTime(RecentFrames.of(config, num_frames=num_frames, reverse=reverse))


@pytest.mark.parametrize(
    ("course", "rule"),
    [
        pytest.param("the two closest conditioning frames, 40 frames", changed(num_recent=2), id="fewer frames"),
        pytest.param(
            "the two closest conditioning frames, 40 frames", changed(max_conditioning=None), id="all prompts"
        ),
        pytest.param("the two closest conditioning frames, 40 frames", changed(max_pointers=15), id="fewer pointers"),
        pytest.param("the two closest conditioning frames, 40 frames", changed(num_frames=8), id="short video"),
        pytest.param("the two closest conditioning frames, 40 frames", shifted, id="temporal row"),
        pytest.param("one click, 20 frames, bounded", changed(stride=2), id="stride"),
        pytest.param("every third frame remembered, 40 frames", changed(stride=2), id="another stride"),
        pytest.param("pointers of the future too, 20 frames", changed(only_past_pointers=True), id="past pointers"),
        pytest.param("pointers of the future too, 20 frames", changed(signed_time=False), id="unsigned time"),
        pytest.param("backwards, then forwards, 20 frames", changed(reverse=False), id="direction"),
    ],
)
def test_any_rule_of_the_policy_changed_is_found(course: str, rule: Rule) -> None:
    verdict = compare(BY_NAME[f"2.1: {course}"], policy=rule)
    assert not verdict.ok
    assert verdict.difference > 10 * verdict.case.tolerance


def test_the_command_prints_a_line_per_case_and_exits_by_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sam2", "one click, 9 frames"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["2.0", "2.1"]
    assert all(line.endswith("ok") for line in lines[:2])
    assert lines[2] == "2 of 2 cases equal upstream's predictor"
    assert main(["sam2", "no such case"]) == 1
    assert main(["none"]) == 2
