"""Video semantic segmentation: who is who over windows, flicker, emission, propagators, bounds and refusals.

Masklets come from a stand-in for SAM2 that goes by colours (`tests.toy_core`), so that what they should be is known.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipeline.errors import ConfigError, PromptError, SessionError, WeightsError
from pipeline.methods.sam2_vss import Sam2VssConfig, Sam2VssSegmenter, build_segmenter, is_folder_name, mini
from pipeline.models.letterbox import resize_frame, to_square
from pipeline.models.mosam_init import random_tracking_core
from pipeline.models.proposals import ProposalConfig, click, grid_points
from pipeline.models.sam2_variants import Sam2Config, predictor_config
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.semantic_networks import LABELS, LabelsOfTheTick, SemanticNetwork, import_callable
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


def toy_segmenter(
    network: SemanticNetwork | None = None, *, core: dict[str, Any] | None = None, **options: Any
) -> Sam2VssSegmenter:
    toy = ToyCore(TOY_CONFIG.model_copy(update={"image_size": 128, **(core or {})}), noise=0.0)
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
    return Sam2VssSegmenter(config, toy, network, CPU)  # type: ignore[arg-type]


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


def test_windows_of_one_frame_have_ids_of_their_own_each() -> None:
    out = run(toy_segmenter(window=1, overlap=0), [tick_of(frame) for frame in range(3)])
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
    """What a session of one masklet holds at SAM2's own memory sizes, when its memory is full, 128 times."""
    sizes = {"image_size": 512, "d_model": 64, "mem_dim": 64, "num_memory_layers": 1, "num_maskmem": 7}
    core = random_tracking_core(
        predictor_config(Sam2Config.model_validate({**ARCHITECTURES["mini"]["sam2"], **sizes})), seed=2
    )
    proposals = ProposalConfig(points_per_side=1, min_predicted_iou=0.0, min_stability=0.0, max_masklets=1)
    segmenter = Sam2VssSegmenter(
        Sam2VssConfig(network=LABELS, proposals=proposals, rows_per_track=1, points_per_propose=1, report="masklets"),
        core.eval(),
        LabelsOfTheTick(class_names=CLASSES, device=CPU),
        CPU,
    )
    session, held = segmenter.open((), (HEIGHT, WIDTH)), []
    for frame in range(9):
        assert len(step(segmenter, [session], [tick_of(frame)])[0][0].objects) == 1
        held.append(session.state_bytes())
    # Seven memories in bfloat16 and a mask in float32, pointers and votes.
    per_masklet = 7 * 64 * 32 * 32 * 2 + 128 * 128 * 4
    assert per_masklet <= held[-1] <= per_masklet + 16 * 1024
    assert held[-1] - held[-2] <= 1024, "a frame more leaves no more than a pointer"
    assert 128 * held[-1] < 1 << 28


def believable_by_hand(segmenter: Sam2VssSegmenter, tick: Tick, config: ProposalConfig) -> list[bytes]:
    """Masks of a frame, click by click, each judged in numpy and suppressed one after another."""
    core = segmenter._stages.core
    side = core.config.image_size
    features = core.encode_image(
        to_square([resize_frame(tick.rgb, (side, side))], num_rows=1, image_size=side, device=CPU)
    )
    found = []
    for point in grid_points(config.points_per_side):
        answer = click(core, features, torch.tensor([point]))
        assert len(answer) == 1
        logits, iou = answer.logits_Mhw[0].numpy(), float(answer.predicted_iou_M[0])
        stability = (logits > config.stability_offset).sum() / max(1, (logits > -config.stability_offset).sum())
        share = (logits > 0).mean()
        if iou > config.min_predicted_iou and stability > config.min_stability and 0.0002 <= share <= 0.95:
            found.append((iou, logits))
    kept: list[Bools] = []
    for _, logits in sorted(found, key=lambda one: -one[0]):
        mask = logits > 0
        if all(box_share(mask, other) <= config.max_box_iou for other in kept):
            kept.append(mask)
    distinct: list[Bools] = []
    for mask in kept:
        if all((mask & other).sum() <= config.max_mask_iou * (mask | other).sum() for other in distinct):
            distinct.append(mask)
    by_mask = {(logits > 0).tobytes(): logits for _, logits in found}
    masks = [torch.from_numpy(by_mask[mask.tobytes()])[None, None] for mask in distinct]
    size = (HEIGHT, WIDTH)
    enlarged = [F.interpolate(one, size=size, mode="bilinear", align_corners=False)[0, 0] for one in masks]
    return sorted((one > 0).numpy().tobytes() for one in enlarged)


def box_share(one: Bools, other: Bools) -> float:
    """IoU of two masks' boxes."""
    filled = []
    for mask in (one, other):
        y, x = np.nonzero(mask)
        filled.append(np.zeros(mask.shape, np.bool_))
        filled[-1][y.min() : y.max() + 1, x.min() : x.max() + 1] = True
    return float((filled[0] & filled[1]).sum() / (filled[0] | filled[1]).sum())


def test_a_model_of_one_mask_per_click_proposes_what_each_click_alone_gives_and_tracks_it() -> None:
    single = {"multimask_output_in_sam": False, "multimask_output_for_tracking": False}
    proposals = ProposalConfig(points_per_side=6)
    segmenter, ticks = toy_segmenter(core=single, proposals=proposals, window=3), [tick_of(n) for n in range(5)]
    with torch.inference_mode():
        wanted = believable_by_hand(segmenter, ticks[0], proposals)
    out = run(segmenter, ticks)
    assert sorted(seen.mask.tobytes() for seen in out[0].objects) == wanted
    assert 2 <= len(wanted) < 36
    for which in (0, 1):
        assert len(ids_of(out, which)) == 5
        assert len(set(ids_of(out, which).values())) == 1


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
