"""Video semantic segmentation: who is who over windows, flicker, emission, propagators, bounds and refusals.

Masklets come from a stand-in for SAM2 that goes by colours (`tests.toy_core`), so that what they should be is known.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError, PromptError, SessionError, WeightsError
from pipeline.methods.sam2_vss import Sam2VssConfig, Sam2VssSegmenter, build_segmenter, is_folder_name, mini
from pipeline.models.memory import MemoryBank, MemoryEntry
from pipeline.models.memory_policies import RecentFrames
from pipeline.models.proposals import ProposalConfig
from pipeline.models.sam2_variants import SAM2_VARIANTS
from pipeline.models.semantic_networks import LABELS, LabelsOfTheTick, SemanticNetwork, import_callable
from pipeline.models.vss_frames import Masklet, bytes_of
from pipeline.models.vss_stitching import StitchConfig
from pipeline.models.vss_votes import VoteRules
from pipeline.segmenter import finish, step
from pipeline.ticks import RGB, PointPrompt, Prompt, Tick, TickMasks
from tests.toy_core import TOY_CONFIG, ToyCore

HEIGHT, WIDTH = 96, 144
CPU = torch.device("cpu")
CLASSES = ("ground", "left", "right", "late")
COLOURS = np.array([[120, 120, 120], [230, 40, 40], [40, 60, 230], [200, 40, 160]], np.uint8)
ENTERS = 40
ANY_PURITY = VoteRules(min_purity=0.0)
"""As in the paper: on a tie the class of the frame before stays, and no gate stops it."""

Bools = NDArray[np.bool_]


def discs(frame: int) -> list[Bools]:
    """Two that are always there, and a large one that comes at frame 40."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    drift = 0.1 * frame
    late = (y - 66) ** 2 + (x - 96) ** 2 < 26**2 if frame >= ENTERS else np.zeros((HEIGHT, WIDTH), np.bool_)
    return [(y - 24) ** 2 + (x - 24 - drift) ** 2 < 15**2, (y - 20) ** 2 + (x - 120 + drift) ** 2 < 13**2, late]


def tick_of(frame: int, *, flips: bool = False) -> Tick:
    """The picture, and labels that are right, or with `flips` call the left disc "right" on every third frame."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for class_id, disc in enumerate(discs(frame), start=1):
        labels[disc] = class_id
    picture = COLOURS[labels]
    if flips and frame % 3 == 2:
        labels[labels == 1] = 2
    images = {RGB: picture, LABELS: np.repeat(labels[:, :, None], 3, axis=2)}
    return Tick(frame_index=frame, pts_us=frame * 40_000, images=images)


def toy_segmenter(network: SemanticNetwork | None = None, **options: Any) -> Sam2VssSegmenter:
    core = ToyCore(TOY_CONFIG.model_copy(update={"image_size": 128}), noise=0.0)
    config = Sam2VssConfig(
        **{
            "network": LABELS,
            "report": "masklets",
            "proposals": ProposalConfig(points_per_side=6, max_masklets=8),
            "rows_per_track": 4,
            "points_per_propose": 12,
            **options,
        }
    )
    network = network or LabelsOfTheTick(class_names=CLASSES, device=CPU)
    return Sam2VssSegmenter(config, core, network, CPU)  # type: ignore[arg-type]


def run(segmenter: Sam2VssSegmenter, ticks: Iterator[Tick] | list[Tick]) -> list[TickMasks]:
    session, out = segmenter.open((), (HEIGHT, WIDTH)), []
    for tick in ticks:
        out += step(segmenter, [session], [tick])[0]
    return out + finish(segmenter, session)


def ids_of(out: list[TickMasks], which: int) -> dict[int, int]:
    """Per frame the id of the masklet that is a disc, where there is one."""
    found = {}
    for masks in out:
        truth = discs(masks.frame_index)[which]
        for seen in masks.objects:
            union = np.count_nonzero(truth | seen.mask)
            if truth.any() and np.count_nonzero(truth & seen.mask) > 0.6 * union:
                found[masks.frame_index] = seen.object_id
    return found


@pytest.fixture(scope="module")
def stitched() -> list[TickMasks]:
    return run(toy_segmenter(), [tick_of(frame) for frame in range(100)])


def test_ids_persist_over_windows_for_what_is_always_there(stitched: list[TickMasks]) -> None:
    assert [masks.frame_index for masks in stitched] == list(range(100))
    left, right = ids_of(stitched, 0), ids_of(stitched, 1)
    assert len(left) == len(right) == 100, "IDF1 is 1: on every frame, and ..."
    assert len(set(left.values())) == len(set(right.values())) == 1, "... under one id"
    assert set(left.values()) != set(right.values())


def test_an_object_that_enters_has_an_id_from_the_next_key_frame_on(stitched: list[TickMasks]) -> None:
    # Windows of 32 that share a frame begin at 0, 31, 62, 93. What shows before is in tests of Discovery.
    late = ids_of(stitched, 2)
    assert ENTERS <= min(late) <= 62
    assert len(set(late.values())) == 1
    assert set(late) == set(range(min(late), 100))


@pytest.mark.parametrize("options", [{"stitching": StitchConfig(stitch=False)}, {"overlap": 0}])
def test_without_stitching_or_a_shared_frame_every_window_has_ids_of_its_own(options: dict[str, Any]) -> None:
    out = run(toy_segmenter(window=8, **options), [tick_of(frame) for frame in range(20)])
    assert len(set(ids_of(out, 0).values())) == 3


@pytest.mark.parametrize("propagator", ["flow", "iou"])
def test_cheap_propagators_link_what_moves_little(propagator: str) -> None:
    out = run(toy_segmenter(propagator=propagator, window=8), [tick_of(frame) for frame in range(12)])
    for which in (0, 1):
        assert len(ids_of(out, which)) == 12
        assert len(set(ids_of(out, which).values())) == 1


def classes_of_left_disc(out: list[TickMasks]) -> list[int | None]:
    """The class that most of the disc's pixels have, per frame."""
    found: list[int | None] = []
    for masks in out:
        disc = discs(masks.frame_index)[0]
        shares = {seen.class_id: np.count_nonzero(seen.mask & disc) for seen in masks.objects}
        found.append(max(shares, key=lambda class_id: shares[class_id]))
    return found


def test_flicker_survives_the_frames_own_vote_and_not_the_windows() -> None:
    ticks = [tick_of(frame, flips=True) for frame in range(14)]
    flicker = [2 if frame % 3 == 2 else 1 for frame in range(14)]
    own = toy_segmenter(report="regions", votes=VoteRules(scope="frame", min_purity=0.0))
    assert classes_of_left_disc(run(own, ticks)) == flicker
    for emit in ("causal", "window"):
        steady = toy_segmenter(report="regions", emit=emit, window=8, votes=ANY_PURITY)
        assert classes_of_left_disc(run(steady, ticks)) == [1] * 14
    track = toy_segmenter(report="regions", window=4, votes=VoteRules(scope="track", min_purity=0.0))
    assert classes_of_left_disc(run(track, ticks)) == [1] * 14


def test_a_window_that_begins_with_a_wrong_frame_is_mended_only_when_it_is_awaited() -> None:
    ticks = [tick_of(frame, flips=True) for frame in range(2, 9)]
    causal = classes_of_left_disc(run(toy_segmenter(report="regions", votes=ANY_PURITY), ticks))
    awaited = classes_of_left_disc(run(toy_segmenter(report="regions", emit="window", votes=ANY_PURITY), ticks))
    assert causal[0] == 2
    assert causal[4:] == [1] * 3
    assert awaited == [1] * 7


def test_awaited_windows_come_out_when_the_next_one_begins_and_survive_a_restart() -> None:
    segmenter = toy_segmenter(report="both", emit="window", window=5)
    ticks = [tick_of(frame, flips=True) for frame in range(11)]
    wanted, session, out, counts = run(segmenter, ticks), segmenter.open((), (HEIGHT, WIDTH)), [], []
    for tick in ticks:
        session = segmenter.restore(session.state_dict())
        out += (taken := step(segmenter, [session], [tick])[0])
        counts.append(len(taken))
    out += finish(segmenter, session)
    assert counts == [0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0]
    assert [masks.frame_index for masks in out] == list(range(11))
    for ours, other in zip(out, wanted, strict=True):
        for seen, expected in zip(ours.objects, other.objects, strict=True):
            assert (seen.object_id, seen.class_id, seen.confidence) == (
                expected.object_id,
                expected.class_id,
                expected.confidence,
            )
            np.testing.assert_array_equal(seen.mask, expected.mask)


def test_regions_are_disjoint_cover_the_frame_and_are_sure_where_all_agree() -> None:
    (masks,) = run(toy_segmenter(report="both"), [tick_of(0)])
    regions = [seen for seen in masks.objects if seen.object_id <= len(CLASSES)]
    masklets = [seen for seen in masks.objects if seen.object_id > len(CLASSES)]
    assert [(seen.object_id, seen.class_id) for seen in regions] == [(1, 0), (2, 1), (3, 2)]
    assert np.sum([seen.mask for seen in regions], axis=0).tolist() == np.ones((HEIGHT, WIDTH)).tolist()
    assert {seen.class_id for seen in masklets} >= {0, 1, 2}
    for seen in regions:
        assert 0.5 < seen.confidence <= 1.0
    assert toy_segmenter().class_names == dict(enumerate(CLASSES))


def broken(images: list[Any]) -> list[Any]:
    maps = [np.full((len(CLASSES), HEIGHT, WIDTH), 0.25, np.float32) for _ in images]
    if images[0][0, 0, 0] == 7:
        maps[0][1, 2, 3] = np.nan
    return maps


def test_a_network_that_gives_nan_ends_in_a_clear_error_and_leaves_the_session_as_it_was() -> None:
    segmenter = toy_segmenter(import_callable(f"{__name__}:broken", CLASSES, CPU))
    session, bad = segmenter.open((), (HEIGHT, WIDTH)), tick_of(1)
    bad.images[RGB][0, 0, 0] = 7
    assert len(step(segmenter, [session], [tick_of(0)])[0]) == 1
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"tests\.methods\.test_sam2_vss:broken.*not finite"):
            step(segmenter, [session], [bad])
        assert session.next_work() is not None
        assert session.next_work().stage == "label"
        bad = replace(bad, frame_index=bad.frame_index + 1)
        assert session.take() == []


def test_128_masklets_at_512_px_stay_under_a_gibibyte() -> None:
    config = SAM2_VARIANTS["sam2.1-hiera-base-plus"]
    policy, side, masklets = RecentFrames.of(config), 512 // 16, []
    for number in range(128):
        bank = MemoryBank()
        for frame in range(32):
            features = torch.empty(config.mem_dim, side, side, dtype=torch.bfloat16)
            entry = MemoryEntry(
                frame_index=frame,
                pointer_D=torch.empty(config.d_model),
                features_Chw=features,
                object_score=1.0,
                predicted_iou=1.0,
                is_conditioning=frame == 0,
            )
            bank.add(entry)
            bank.forget(policy.horizon)
        logits = torch.empty(4 * side, 4 * side)
        masklets.append(
            Masklet(masklet_id=number, position=31, logits_hw=logits, predicted_iou=1.0, object_score=1.0, bank=bank)
        )
    assert 7 * 128 * 64 * side * side * 2 < bytes_of(tuple(masklets)) < 1 << 28


def test_prompts_are_refused() -> None:
    prompt = Prompt(object_id=1, frame_index=0, points=(PointPrompt(x=1, y=2),))
    with pytest.raises(PromptError, match="takes none"):
        toy_segmenter().open([prompt], (HEIGHT, WIDTH))


def test_a_tick_without_the_labels_is_refused() -> None:
    session, tick = toy_segmenter().open((), (HEIGHT, WIDTH)), tick_of(0)
    with pytest.raises(SessionError, match="'labels'"):
        session.push(replace(tick, images={RGB: tick.images[RGB]}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mode": "classify"}, "needs a classifier checkpoint"),
        ({"network": None}, "no semantic network"),
        ({"class_names": None}, "class_names"),
        ({"class_names": tuple(map(str, range(256)))}, "at most 255"),
        ({"network": "/no/such/folder"}, "no such folder"),
        ({"network": "tests.methods.test_sam2_vss:no_such"}, "no_such"),
        ({"precision": "bf16"}, "CUDA"),
        ({"image_size": 100}, "image_size 100"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_video(changes: dict[str, Any], told: str) -> None:
    config, model = mini()
    with pytest.raises(ConfigError, match=told):
        build_segmenter(config.model_copy(update=changes), model, "cpu")


@pytest.mark.parametrize(
    "options", [{"window": 1}, {"emit": "window", "votes": VoteRules(scope="frame")}, {"windows": 3}]
)
def test_settings_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"window|causal"):
        Sam2VssConfig(network=LABELS, **options)


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [("labels", False), ("a.b:c", False), ("hf:org/name", True), ("./net", True), ("s3://bucket/net", True)],
)
def test_a_networks_name_tells_what_it_is(name: str, is_folder: bool) -> None:
    assert is_folder_name(name) is is_folder
