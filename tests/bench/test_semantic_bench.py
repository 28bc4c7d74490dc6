"""The semantic bench: the setting it chooses, what its claims say, a frame refined by hand, and a small run."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers

from pipeline.models.proposals import Proposals
from pipeline.models.semantic_networks import SemanticMap
from pipeline.models.vss_votes import VoteRules
from pipeline.synth.street_world import STREET_CLASSES
from tests.bench import semantic, semantic_calibration
from tests.bench.semantic import main
from tests.bench.semantic_calibration import Setting, choose, refined_frame
from tests.bench.semantic_report import judge
from tests.bench.semantic_runs import Batching, Measured, batching
from tests.models.random_sam2 import save_random_sam2

PLAIN = Setting(
    min_predicted_iou=0.5, min_stability=0.5, min_purity=0.5, miou=0.6, boundary_miou=0.4, masks_per_frame=3.0
)


def test_the_best_boundary_that_lowers_no_miou_is_chosen_and_the_strictest_of_equals() -> None:
    lower = replace(PLAIN, boundary_miou=0.9, miou=0.59)
    better, strict = replace(PLAIN, boundary_miou=0.5), replace(PLAIN, boundary_miou=0.5, min_purity=0.9)
    assert choose([PLAIN, lower, better, strict], alone=(0.6, 0.3)) is strict
    assert choose([PLAIN, lower], alone=(0.6, 0.3)) is PLAIN
    assert choose([PLAIN, lower], alone=(0.6, 0.4)) is None, "nothing is gained"
    assert choose([], alone=(0.6, 0.3)) is None


def measured(miou: float, boundary: float, vc8: float, vc16: float) -> Measured:
    scores = {"miou": miou, "boundary_miou": boundary, "vc_strict_8": vc8, "vc_strict_16": vc16}
    return Measured(scores=scores, warp_consistency=0.5, frames_per_second=2.0)


def test_claims_hold_where_the_numbers_say_so() -> None:
    table = {
        "network alone": measured(0.5, 0.3, 0.7, 0.6),
        "refined, frame vote": measured(0.5, 0.4, 0.8, 0.8),
        "refined, window, awaited": measured(0.5, 0.4, 0.8, 0.9),
    }
    assert [holds for _, holds, _ in judge(table)] == [True, True, True, False, True]
    table["refined, window, awaited"] = measured(0.49, 0.3, 0.7, 0.8)
    assert [holds for _, holds, _ in judge(table)] == [False, False, False, False, False]


def test_a_frame_is_refined_by_masks_that_vote_on_it_alone() -> None:
    labels = torch.zeros(8, 12, dtype=torch.int64)
    labels[2:6, 2:8] = 5
    labels[3, 3] = 7
    logits = torch.full((1, 8, 12), -4.0)
    logits[0, 2:6, 2:8] = 4.0
    semantic = SemanticMap(labels_HW=labels)
    masks = Proposals(logits_Mhw=logits, predicted_iou_M=torch.tensor([0.9]))
    wanted = torch.where(logits[0] > 0, 5, 0)
    rules = VoteRules(scope="frame", min_purity=0.95)
    assert refined_frame(semantic, masks, rules).tolist() == wanted.tolist()
    gated = rules.model_copy(update={"min_purity": 0.97})  # 23 of 24 pixels agree
    assert refined_frame(semantic, masks, gated).tolist() == labels.tolist()
    assert refined_frame(semantic, masks.pick(torch.zeros(0, dtype=torch.long)), rules).tolist() == labels.tolist()


def test_the_ratio_is_that_of_the_seconds() -> None:
    cost = Batching(masklets=48, one_by_one=0.3, batched=0.1, state_bytes=3 << 20)
    assert cost.ratio == pytest.approx(3.0)
    assert "3.00 times" in cost.told()
    assert "48 masklets, 3.0 MiB" in cost.told()


def save_street_network(folder: Path) -> Path:
    """A random SegFormer of the streets' classes."""
    torch.manual_seed(3)
    config = transformers.SegformerConfig(
        num_encoder_blocks=4,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(STREET_CLASSES)),
    )
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 64, "width": 96}).save_pretrained(folder)
    return folder


def test_a_small_run_measures_every_variant_and_writes_table_and_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(semantic, "batching", partial(batching, num_masklets=5, num_frames=2))
    monkeypatch.setattr(semantic_calibration, "PREDICTED_IOU", (0.0, 0.6))
    monkeypatch.setattr(semantic_calibration, "STABILITY", (0.3,))
    network, sam2 = save_street_network(tmp_path / "network"), save_random_sam2(tmp_path / "sam2")
    small = [
        "--streets",
        "1",
        "--frames",
        "9",
        "--calibrate",
        "1",
        "--min-stability",
        "0.4",
        "--image-size",
        "64",
        "128",
    ]
    file = tmp_path / "measured" / "streets.json"
    assert main(["--network", str(network), "--model", str(sam2), *small, "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert set(content["table"]) == {
        "network alone",
        "refined, frame vote",
        "refined, window, causal",
        "refined, window, awaited",
    }
    assert content["calibration"]["num_settings"] == 6
    assert content["settings"].startswith(("image size 64;", "image size 128;"))
    assert all(row["vc_strict_8"] is not None for row in content["table"].values())
    assert content["batching"]["masklets"] == 5
    assert content["batching"]["ratio"] > 0
    page, printed = file.with_suffix(".md").read_text(), capsys.readouterr().out
    row = next(line for line in page.splitlines() if line.startswith("| refined, frame vote |"))
    assert row in printed
    assert f"{100 * content['table']['refined, frame vote']['miou']:.1f}" in row
    assert "times as fast as one masklet at a time" in page
