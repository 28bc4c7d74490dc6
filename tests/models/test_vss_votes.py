"""Votes and painting: hand-computed grids, a brute-force reference, planted noise, and laws."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.evaluate.semantic import SemanticScorer, SemanticScores
from pipeline.evaluate.semantic_protocols import semantic_protocol
from pipeline.models.vss_votes import (
    NO_CLASS,
    VOID,
    Ballots,
    PaintedFrame,
    VoteRules,
    decide,
    paint,
    tally,
    without_rim,
)


def grid(text: str) -> Tensor:
    """One digit a pixel; "." is void."""
    return torch.tensor([[VOID if pixel == "." else int(pixel) for pixel in row] for row in text.split()])


def mask(text: str) -> Tensor:
    return torch.tensor([[pixel == "#" for pixel in row] for row in text.split()])


def refine(
    labels: Tensor,
    masks: Tensor,
    rules: VoteRules,
    *,
    ids: Tensor | None = None,
    quality: Tensor | None = None,
    num_classes: int = 6,
    probabilities: Tensor | None = None,
) -> Tensor:
    ids = torch.arange(1, len(masks) + 1) if ids is None else ids
    quality = torch.full((len(masks),), 0.9) if quality is None else quality
    return painted_frame(labels, masks, rules, ids, quality, num_classes, probabilities).labels_HW


def painted_frame(
    labels: Tensor,
    masks: Tensor,
    rules: VoteRules,
    ids: Tensor,
    quality: Tensor,
    num_classes: int = 6,
    probabilities: Tensor | None = None,
) -> PaintedFrame:
    ballots = tally(labels, masks, num_classes=num_classes, rules=rules, probabilities_CHW=probabilities)
    verdicts = decide(ballots, torch.full((len(masks),), NO_CLASS), min_purity=rules.min_purity)
    return paint(labels, masks, verdicts, ids_O=ids, quality_O=quality, rules=rules)


FRAME = VoteRules(scope="frame", min_purity=0.0)

LABELS = grid(
    """
    00000000
    01110000
    01210022
    01110022
    00000022
    33.00000
    3..04440
    33304440
    """
)
LEFT = mask("........ .###.... .###.... .###.... ........ ........ ........ ........")
RIGHT = mask("........ ........ .....### .....### .....### ........ ........ ........")
CORNER = mask("........ ........ ........ ........ ........ ###..... ###..... ###.....")


def test_a_hand_computed_frame() -> None:
    painted = refine(LABELS, torch.stack([LEFT, RIGHT, CORNER]), FRAME)
    expected = grid(
        """
        00000000
        01110000
        01110222
        01110222
        00000222
        33300000
        33304440
        33304440
        """
    )
    # Left: 8 to 1 for class 1. Right: 6 of class 2 to 3 of class 0. Corner: 6 of class 3; void does not vote.
    assert torch.equal(painted, expected)


def test_uncovered_pixels_keep_the_networks_label_exactly() -> None:
    painted = refine(LABELS, torch.stack([LEFT, CORNER]), FRAME)
    outside = ~(LEFT | CORNER)
    assert torch.equal(painted[outside], LABELS[outside])
    assert torch.equal(refine(LABELS, torch.zeros(0, 8, 8, dtype=torch.bool), FRAME), LABELS)


def test_a_masklet_of_void_and_one_without_pixels_paint_nothing() -> None:
    void = mask("........ ........ ........ ........ ........ ..#..... .##..... ........")
    masks = torch.stack([void, torch.zeros(8, 8, dtype=torch.bool)])
    assert torch.equal(refine(LABELS, masks, FRAME), LABELS)
    verdicts = decide(tally(LABELS, masks, num_classes=6, rules=FRAME), torch.full((2,), NO_CLASS), min_purity=0.0)
    assert verdicts.winner_O.tolist() == [NO_CLASS, NO_CLASS]
    assert verdicts.purity_O.tolist() == verdicts.margin_O.tolist() == [0.0, 0.0]


def test_a_masklet_that_swallows_two_classes_is_stopped_by_the_gate_alone() -> None:
    labels = grid("0000000000 0111111220 0111112220 0000000000")
    both = mask(".......... .########. .########. ..........")
    # 11 to 5: purity 0.6875.
    assert torch.equal(refine(labels, both[None], VoteRules(min_purity=0.7)), labels)
    merged = refine(labels, both[None], VoteRules(min_purity=0.0))
    assert set(merged[both].tolist()) == {1}


def test_a_network_wrong_on_most_of_an_object_makes_all_of_it_wrong() -> None:
    labels = torch.zeros(10, 12, dtype=torch.int64)
    inside = torch.zeros(10, 12, dtype=torch.bool)
    inside[2:7, 3:7] = True
    labels[inside] = torch.tensor([4] * 16 + [1] * 4)
    painted = refine(labels, inside[None], FRAME)
    assert set(painted[inside].tolist()) == {4}


@pytest.mark.parametrize(
    ("overlap", "expected"), [("area", "1122 1122"), ("score", "1112 1112"), ("vote", "1122 1122")]
)
def test_the_order_of_overlapping_masklets(overlap: str, expected: str) -> None:
    labels = grid("1112 1122")
    large, small = mask("###. ###."), mask("..## ..##")
    quality = torch.tensor([0.9, 0.8])
    # Large: five of class 1 to one of class 2. Small: three of class 2 to one of class 1. The former is the purer.
    rules = VoteRules(min_purity=0.0, overlap=overlap)
    painted = refine(labels, torch.stack([large, small]), rules, quality=quality)
    if overlap == "vote":
        expected = "1112 1112"
    assert torch.equal(painted, grid(expected))


def test_equal_areas_are_ordered_by_quality_and_then_by_id() -> None:
    labels = grid("1112 1122")
    one, two = mask("###. ###."), mask(".### .###")
    rules = VoteRules(min_purity=0.0)
    for quality, ids, top in (
        ([0.8, 0.9], [1, 2], 2),
        ([0.9, 0.8], [1, 2], 1),
        ([0.9, 0.9], [1, 2], 1),
        ([0.9, 0.9], [7, 2], 2),
    ):
        labels = grid("1111 2222")
        masks = torch.stack([one, two])
        labels[:, 0], labels[:, 3] = 1, 2
        painted = refine(labels, masks, rules, quality=torch.tensor(quality), ids=torch.tensor(ids))
        assert painted[0, 1] == top


@pytest.mark.parametrize(
    ("votes", "probability", "previous", "winner"),
    [
        ([3, 5, 5], [3, 5, 5], NO_CLASS, 1),
        ([3, 5, 5], [3, 5, 5], 2, 2),
        ([3, 5, 5], [3, 5, 5], 0, 1),
        ([3, 5, 5], [9, 4, 4.5], 1, 2),
        ([6, 5, 5], [0, 4, 4.5], 1, 0),
    ],
)
def test_ties_go_by_probability_then_by_the_frame_before_then_by_id(
    votes: list[float], probability: list[float], previous: int, winner: int
) -> None:
    ballots = Ballots(
        votes_OC=torch.tensor([votes], dtype=torch.float64),
        probability_OC=torch.tensor([probability], dtype=torch.float64),
    )
    verdicts = decide(ballots, torch.tensor([previous]), min_purity=0.0)
    assert verdicts.winner_O.tolist() == [winner]
    ordered = sorted(votes)
    assert verdicts.margin_O.item() == pytest.approx((ordered[-1] - ordered[-2]) / sum(votes))


def test_the_gate_is_inclusive() -> None:
    ballots = Ballots(votes_OC=torch.tensor([[2.0, 2.0]]).double(), probability_OC=torch.tensor([[2.0, 2.0]]).double())
    assert decide(ballots, torch.tensor([NO_CLASS]), min_purity=0.5).painted_O.tolist() == [0]
    assert decide(ballots, torch.tensor([NO_CLASS]), min_purity=0.51).painted_O.tolist() == [NO_CLASS]


def test_pixels_at_the_rim_do_not_vote_but_the_frames_edge_is_no_rim() -> None:
    whole = mask("####. ####. ####. .....")
    assert torch.equal(without_rim(whole[None], 1)[0], mask("###.. ###.. ..... ....."))
    labels = grid("00010 00011 11111 00000")
    assert set(refine(labels, whole[None], VoteRules(min_purity=0.0, rim_px=1))[whole].tolist()) == {0}


def brute_force(labels: Tensor, masks: Tensor, quality: Tensor, ids: Tensor, min_purity: float) -> Tensor:
    """Masklet by masklet, pixel by pixel."""
    painted = labels.clone()
    order = sorted(range(len(masks)), key=lambda o: (-int(masks[o].sum()), float(quality[o]), -int(ids[o])))
    for o in order:
        counts = Counter(label for label in labels[masks[o]].tolist() if label != VOID)
        if not counts:
            continue
        winner = min(counts, key=lambda c: (-counts[c], c))
        if counts[winner] / sum(counts.values()) >= min_purity:
            painted[masks[o]] = winner
    return painted


@pytest.mark.parametrize("min_purity", [0.0, 0.45])
def test_random_frames_equal_the_brute_force_and_do_not_depend_on_the_order_of_masklets(min_purity: float) -> None:
    chance = np.random.default_rng(3)
    for _ in range(20):
        labels = torch.from_numpy(chance.choice([0, 1, 2, 3, VOID], (11, 17)))
        masks = torch.zeros(20, 11, 17, dtype=torch.bool)
        for one in masks:
            y, x, h, w = chance.integers(0, 9), chance.integers(0, 14), chance.integers(1, 8), chance.integers(1, 9)
            one[y : y + h, x : x + w] = True
        quality, ids = torch.from_numpy(chance.choice([0.5, 0.75], 20)), torch.from_numpy(chance.permutation(20) + 1)
        rules = VoteRules(min_purity=min_purity)
        painted = refine(labels, masks, rules, ids=ids, quality=quality)
        assert torch.equal(painted, brute_force(labels, masks, quality, ids, min_purity))
        mixed = torch.from_numpy(chance.permutation(20))
        assert torch.equal(refine(labels, masks[mixed], rules, ids=ids[mixed], quality=quality[mixed]), painted)
        frame = painted_frame(labels, masks, rules, ids, quality)
        for o in range(20):
            # What a masklet paints is one class, and one that the network saw inside it.
            assert set(frame.labels_HW[frame.painter_HW == o].tolist()) <= set(labels[masks[o]].tolist()) - {VOID}
        assert torch.equal(frame.labels_HW[frame.painter_HW < 0], labels[frame.painter_HW < 0])


def test_soft_votes_sum_probabilities_and_are_exact_in_any_order() -> None:
    chance = torch.Generator().manual_seed(1)
    probabilities = torch.rand(4, 300, 401, generator=chance).softmax(dim=0)
    labels = probabilities.argmax(dim=0)
    masks = torch.rand(9, 300, 401, generator=chance) > 0.6
    rules = VoteRules(vote="soft")
    ballots = tally(labels, masks, num_classes=4, rules=rules, probabilities_CHW=probabilities)
    wanted = torch.stack([(probabilities * one).flatten(1).sum(1) for one in masks])
    torch.testing.assert_close(ballots.votes_OC.float(), wanted, rtol=1e-4, atol=0)
    mixed = torch.tensor([5, 0, 8, 2, 1, 7, 3, 6, 4])
    other = tally(labels, masks[mixed], num_classes=4, rules=rules, probabilities_CHW=probabilities)
    assert torch.equal(other.votes_OC, ballots.votes_OC[mixed])
    with pytest.raises(ValueError, match="probabilities"):
        tally(labels, masks, num_classes=4, rules=rules)


def test_hard_ties_are_broken_by_the_networks_probabilities() -> None:
    labels = grid("12")
    probabilities = torch.tensor([[0.1, 0.1], [0.5, 0.3], [0.4, 0.6]])[:, None]
    assert refine(labels, mask("##")[None], FRAME, num_classes=3, probabilities=probabilities).tolist() == [[2, 2]]
    assert refine(labels, mask("##")[None], FRAME, num_classes=3).tolist() == [[1, 1]]


def test_a_flicker_survives_the_frames_own_vote_and_not_the_windows() -> None:
    inside = mask("...... .####. .####. ......")
    steady, flipped = torch.zeros(4, 6, dtype=torch.int64), torch.zeros(4, 6, dtype=torch.int64)
    steady[inside], flipped[inside] = 1, 2
    flipped[1, 1] = 1
    rules, total, winners = VoteRules(), None, []
    for frame in range(12):
        ballots = tally(flipped if frame % 3 == 2 else steady, inside[None], num_classes=3, rules=rules)
        total = ballots if total is None else total.followed_by(ballots)
        alone = decide(ballots, torch.tensor([NO_CLASS]), min_purity=0.5).winner_O.item()
        winners.append((alone, decide(total, torch.tensor([NO_CLASS]), min_purity=0.5).winner_O.item()))
    assert [alone for alone, _ in winners] == [1, 1, 2] * 4
    assert {window for _, window in winners} == {1}


def test_a_track_forgets_what_it_saw_long_ago() -> None:
    first = Ballots(votes_OC=torch.tensor([[100.0, 0.0]]).double(), probability_OC=torch.zeros(1, 2).double())
    later = Ballots(votes_OC=torch.tensor([[0.0, 10.0]]).double(), probability_OC=torch.zeros(1, 2).double())
    total, frames = first, 0
    while decide(total, torch.tensor([0]), min_purity=0.0).winner_O.item() == 0:
        total, frames = total.followed_by(later, decay=0.97), frames + 1
    # 100 * 0.97**n < 10 * (1 - 0.97**n) / 0.03  <=>  0.97**n < 10 / 13.
    assert frames == 9


def planted_video() -> tuple[Tensor, Tensor, Tensor]:
    """Discs of two classes that move over a ground: truth, exact masks, and labels with frayed rims and salt."""
    chance = np.random.default_rng(8)
    y, x = np.mgrid[:60, :90]
    truth, masks, noisy = [], [], []
    for frame in range(20):
        discs = [(y - 18) ** 2 + (x - 15 - frame) ** 2 < 120, (y - 46) ** 2 + (x - 70 + 2 * frame) ** 2 < 160]
        labels = np.zeros((60, 90), np.int64)
        for class_id, disc in enumerate(discs, start=1):
            labels[disc] = class_id
        rim = without_rim(torch.from_numpy(np.stack(discs)), 3).numpy()
        frayed = labels.copy()
        for disc, inner in zip(discs, rim, strict=True):
            lost = disc & ~inner & (chance.random(disc.shape) < 0.5)
            frayed[lost] = 0
        salt = chance.random(labels.shape) < 0.1
        frayed[salt] = chance.integers(0, 3, int(salt.sum()))
        truth.append(labels)
        masks.append(np.stack([*discs, labels == 0]))
        noisy.append(frayed)
    return torch.from_numpy(np.stack(truth)), torch.from_numpy(np.stack(masks)), torch.from_numpy(np.stack(noisy))


def scores_of(labels: Tensor, truth: Tensor) -> SemanticScores:
    scorer = SemanticScorer(semantic_protocol("masklake"), num_classes=3)
    scorer.add_video(labels.numpy(), truth.numpy())
    return scorer.scores()


def test_exact_masklets_mend_frayed_rims_and_salt() -> None:
    truth, masks, noisy = planted_video()
    refined = torch.stack([refine(labels, one, FRAME, num_classes=3) for labels, one in zip(noisy, masks, strict=True)])
    before, after = scores_of(noisy, truth), scores_of(refined, truth)
    assert torch.equal(refined, truth)
    assert before.miou < 0.9
    assert after.miou == after.boundary_miou == after.consistency["vc_strict_8"] == 1.0
    assert before.boundary_miou < 0.8
    assert before.consistency["vc_strict_8"] < 0.6
