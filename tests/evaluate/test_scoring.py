"""Scores under the named protocols: hand-computed clips, and numbers of the public evaluators on the same pixels.

The oracle values come from vos-benchmark 0.1.0 (its Evaluator, fed the label maps of `drawn_masks`) and trackeval 1.3.0
(its JAndF with optim_type "J&F", fed the same masks as RLE), installed from PyPI with numpy 2.4, Python 3.11. They are
written down instead of run, since both bring an OpenCV that overwrites the headless one.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluate.mask_sequences import MaskSequence, score_frames
from pipeline.evaluate.protocols import scoring_protocol
from pipeline.evaluate.scoring import ItemScore, ProtocolScore, VideoCase, score_video, summarise
from tests.evaluate.drawn_masks import Labels, Masks, drawn_labels, late_square

VOS_BENCHMARK = {
    "1": (0.8345815724395975, 0.7444779590186034),
    "2": (0.8432066147103392, 0.9016664775787057),
    "3": (0.4666394367427172, 0.24450163279710135),
}
VOS_BENCHMARK_ALL_FRAMES = {
    "1": (0.8346136862869202, 0.744240891774762),
    "2": (0.85227324275507, 0.9167831333512114),
    "3": (0.47472711837447873, 0.25245184156472184),
}
TRACKEVAL = (0.7643107559409498, 0.700120968766505)
TRACKEVAL_WITHOUT_OBJECT_2 = (0.5913307861337042, 0.5056377020938789)

SMALL = (4, 6, 9)


def by_label(labels: Labels, names: Mapping[int, str] | None = None) -> dict[str, MaskSequence]:
    names = names or {1: "1", 2: "2", 3: "3"}
    return {name: labels == label for label, name in names.items()}


def drawn_case() -> VideoCase:
    truth, prediction = drawn_labels()
    return VideoCase(video_id="drawn", truths=by_label(truth), predictions=by_label(prediction))


def score(name: str, *cases: VideoCase) -> ProtocolScore:
    protocol = scoring_protocol(name)
    return summarise(protocol, [item for case in cases for item in score_video(protocol, case)])


def block(*frames: int) -> Masks:
    """Small masks with a block on the given frames."""
    masks = np.zeros(SMALL, dtype=np.bool_)
    masks[list(frames), 1:4, 2:7] = True
    return masks


def small_case(video_id: str, truth: Masks, prediction: Masks | None, text: str = "a block") -> VideoCase:
    predictions = {} if prediction is None else {"0": prediction}
    return VideoCase(video_id=video_id, truths={"0": truth}, predictions=predictions, texts={"0": text})


@pytest.mark.parametrize(
    ("name", "j", "f"),
    [("vos_benchmark_all_frames", 9 / 11, 42 / 80), ("mevis", (6 + 4 * 9 / 11) / 10, (6 + 4 * 42 / 80) / 10)],
)
def test_an_object_that_comes_late_scores_82_and_53_or_93_and_81(name: str, j: float, f: float) -> None:
    """The same masks, J/F 81.8/52.5 by vos-benchmark and 92.7/81.0 by trackeval and MeViS' script."""
    truth, prediction = late_square()
    found = score(name, VideoCase(video_id="late", truths={"1": truth}, predictions={"1": prediction}))
    assert (found.j, found.f) == (pytest.approx(j), pytest.approx(f))
    assert found.j_and_f == pytest.approx((j + f) / 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vos_benchmark", VOS_BENCHMARK),
        ("sa_v", VOS_BENCHMARK),
        ("vos_benchmark_all_frames", VOS_BENCHMARK_ALL_FRAMES),
    ],
)
def test_objects_score_as_vos_benchmark_scores_them(name: str, expected: dict[str, tuple[float, float]]) -> None:
    items = score_video(scoring_protocol(name), drawn_case())
    assert {item.item_id: (item.j, item.f) for item in items} == {
        item_id: (pytest.approx(j, abs=1e-12), pytest.approx(f, abs=1e-12)) for item_id, (j, f) in expected.items()
    }
    found = score(name, drawn_case())
    assert found.j == pytest.approx(np.mean([j for j, _ in expected.values()]), abs=1e-12)
    assert found.f == pytest.approx(np.mean([f for _, f in expected.values()]), abs=1e-12)


@pytest.mark.parametrize("names", [{1: "1", 2: "2", 3: "3"}, {1: "c", 2: "a", 3: "b"}, {3: "1", 1: "2", 2: "3"}])
def test_matched_objects_score_as_trackeval_scores_them_whatever_their_names(names: dict[int, str]) -> None:
    case = replace(drawn_case(), predictions=by_label(drawn_labels()[1], names))
    found = score("davis_unsup", case)
    assert (found.j, found.f) == pytest.approx(TRACKEVAL, abs=1e-12)
    items = score_video(scoring_protocol("davis_unsup"), case)
    assert [item.prediction_id for item in items] == [names[1], names[2], names[3]]


def test_an_object_nobody_predicted_is_matched_with_empty_masks() -> None:
    found = score("davis_unsup", replace(drawn_case(), predictions=by_label(drawn_labels()[1], {1: "x", 3: "y"})))
    assert (found.j, found.f) == pytest.approx(TRACKEVAL_WITHOUT_OBJECT_2, abs=1e-12)
    assert found.num_missing == 1


@pytest.mark.parametrize(("moved_px", "chosen"), [(2, "moved"), (7, "outline")])
def test_the_matching_goes_by_the_mean_of_j_and_f(moved_px: int, chosen: str) -> None:
    """An outline has the better F and the worse J than a square moved by 2 (sums 1.2, 1.3) or by 7 (1.2, 0.9)."""
    truth = np.zeros((3, 48, 64), dtype=np.bool_)
    truth[:, 10:30, 12:32] = True
    outline = truth.copy()
    outline[:, 11:29, 13:31] = False
    predictions = {"outline": outline, "moved": np.roll(truth, moved_px, axis=2)}
    scores = {name: score_frames(masks, truth) for name, masks in predictions.items()}
    assert scores["outline"].j.mean() < scores["moved"].j.mean()
    assert scores["outline"].f.mean() > scores["moved"].f.mean()
    case = VideoCase(video_id="v", truths={"1": truth}, predictions=predictions)
    (item,) = score_video(scoring_protocol("davis_unsup"), case)
    assert item.prediction_id == chosen


def test_davis_semi_counts_all_but_the_first_and_last_frame_empty_ones_as_1() -> None:
    truth, prediction = drawn_labels()
    expected = [score_frames(prediction == label, truth == label) for label in (1, 2, 3)]
    found = score("davis_semi", drawn_case())
    assert found.j == pytest.approx(np.mean([scores.j[1:-1].mean() for scores in expected]))
    assert found.f == pytest.approx(np.mean([scores.f[1:-1].mean() for scores in expected]))
    assert found.j > score("vos_benchmark", drawn_case()).j


def test_void_pixels_count_only_where_the_protocol_does_not_exclude_them() -> None:
    truth, prediction = block(0, 1, 2, 3), block(0, 1, 2, 3)
    prediction[:, 4:] = True
    void = np.zeros(SMALL, dtype=np.bool_)
    void[:, 4:] = True
    case = replace(small_case("v", truth, prediction), void=void)
    assert score("davis_unsup", case).j == 1.0
    assert score("davis_semi", case).j == pytest.approx(15 / (15 + 18))


def test_ref_davis_is_the_mean_of_its_four_sets_of_expressions() -> None:
    perfect, empty = block(0, 1, 2, 3), block()
    cases = [
        replace(small_case("v", perfect, prediction), group=f"anno_{place}")
        for place, prediction in enumerate([perfect, perfect, perfect, empty])
    ]
    found = score("ref_davis", *cases)
    assert (found.j, found.f, found.num_items) == (0.75, 0.75, 4)
    assert [mean.name for mean in found.groups] == ["anno_0", "anno_1", "anno_2", "anno_3"]
    with pytest.raises(ValueError, match=r"scores of 3 groups \(anno_0, anno_1, anno_2\), expected 4"):
        score("ref_davis", *cases[:3])


def test_a_video_weighs_as_much_as_it_has_items() -> None:
    perfect = block(0, 1, 2, 3)
    three = dict.fromkeys(("0", "1", "2"), perfect)
    many = VideoCase(video_id="many", truths=three, predictions=three)
    found = score("mevis", many, small_case("one", perfect, block()))
    assert found.j == 0.75
    assert [(mean.name, mean.j, mean.num_items) for mean in found.videos] == [("many", 1.0, 3), ("one", 0.0, 1)]


def test_mevis_scores_a_missing_prediction_0_though_truth_and_masks_are_empty() -> None:
    found = score("mevis", small_case("a", block(0, 1), None), small_case("b", block(), block()))
    assert (found.j, found.f, found.num_missing) == (0.5, 0.5, 1)
    assert score("mevis", small_case("a", block(), None)).j == 0.0


def test_equal_texts_overwrite_each_other_where_the_text_is_the_key() -> None:
    perfect = block(0, 1)
    cases = [
        small_case("a", perfect, block(), "the dog"),
        small_case("b", perfect, perfect, "the dog"),
        small_case("c", perfect, block(0), "the cat"),
    ]
    by_video = score("mevis", *cases)
    by_text = score("mevis_samwise_text_keyed", *cases)
    assert (by_video.num_items, by_text.num_items) == (3, 2)
    assert by_video.j == pytest.approx((0.5 + 1 + 0.75) / 3)
    assert by_text.j == pytest.approx((1 + 0.75) / 2)


def test_no_target_and_target_accuracy_count_whole_clips() -> None:
    perfect = block(0, 1)
    found = score(
        "mevis",
        small_case("none, none predicted", block(), block()),
        small_case("none, one frame predicted", block(), block(2)),
        small_case("none, not handed in", block(), None),
        small_case("target, predicted elsewhere", perfect, block(3)),
        small_case("target, nothing predicted", perfect, block()),
    )
    assert (found.n_acc, found.t_acc) == (pytest.approx(1 / 3), 0.5)
    assert score("mevis", small_case("a", perfect, perfect)).n_acc is None
    assert score("mevis", small_case("a", block(), block())).t_acc is None


def test_vos_benchmark_drops_objects_that_the_truth_never_shows() -> None:
    perfect = block(0, 1, 2, 3)
    only_outside = block(0, 3)
    case = VideoCase(
        video_id="v",
        truths={"seen": perfect, "first and last frame only": only_outside},
        predictions={"seen": perfect, "first and last frame only": perfect, "of nobody": perfect},
    )
    assert [item.item_id for item in score_video(scoring_protocol("vos_benchmark"), case)] == ["seen"]
    with pytest.raises(ValueError, match="no scores"):
        score("vos_benchmark", small_case("v", block(), perfect))


def test_an_object_predicted_before_it_comes_counts_from_then_on() -> None:
    protocol = scoring_protocol("vos_benchmark_all_frames")
    (item,) = score_video(protocol, small_case("v", block(2, 3), block(1, 2, 3)))
    assert (item.j, item.num_frames) == (pytest.approx(2 / 3), 3)


def test_scores_of_item_tell_what_was_counted() -> None:
    (item,) = score_video(scoring_protocol("davis_semi"), small_case("v", block(0, 1), block(0)))
    assert item == ItemScore(
        video_id="v",
        item_id="0",
        text="a block",
        group="",
        j=0.5,
        f=0.5,
        num_frames=2,
        prediction_id="0",
        has_target=True,
        is_predicted=False,
    )


@pytest.mark.parametrize(
    ("name", "predictions", "message"),
    [
        ("ref_ytvos", {}, "wants a prediction for every item; none for 0"),
        ("sa_v", {"1": block(1)}, "none for 0"),
        ("davis_semi", {"0": block(1), "7": block(1)}, "has no item 7"),
        ("davis_unsup", {str(name): block(1) for name in range(21)}, "at most 20 predictions, got 21"),
        ("mevis", {"0": block(1)[1:]}, "v, 0: 3 frames, expected the 4"),
        ("mevis", {"0": block(1)[:, 1:]}, "v, 0: mask of 5 x 9 against truth of 6 x 9"),
        ("mevis", {"0": block(1).astype(np.uint8)}, "bool array"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(name: str, predictions: dict[str, Masks], message: str) -> None:
    case = VideoCase(video_id="v", truths={"0": block(1)}, predictions=predictions)
    with pytest.raises(ValueError, match=message):
        score_video(scoring_protocol(name), case)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="of 2 annotated frames, and no frame remains"):
        score("davis_semi", small_case("v", block(0)[:2], block(0)[:2]))
    with pytest.raises(ValueError, match="no truth"):
        score("mevis", VideoCase(video_id="v", truths={}, predictions={}))
    with pytest.raises(ValueError, match="scored twice"):
        score("mevis", small_case("v", block(0), block(0)), small_case("v", block(0), block(0)))
    with pytest.raises(ValueError, match="give `texts`"):
        score("mevis_samwise_text_keyed", replace(small_case("v", block(0), block(0)), texts={}))
