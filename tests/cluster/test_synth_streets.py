"""masklake synth writes streets in the layouts of datasets."""

import json
from pathlib import Path

import pytest

from pipeline.cli import synth


def test_splits_of_one_dataset_come_together_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "valid"):
        arguments = ["--out", str(tmp_path), "--format", "deliver", "--clips", "1", "--split", split]
        assert synth(arguments) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(tmp_path / f"manifest_{subset}.jsonl") for subset in ("train", "val")]
    for subset in ("train", "val"):
        (row,) = [json.loads(line) for line in (tmp_path / f"manifest_{subset}.jsonl").read_text().splitlines()]
        assert f"/{subset}/" in row["video_uri"]
        assert len(list((tmp_path / row["video_uri"]).glob("*_rgb_front.png"))) == 4


def test_a_second_dataset_in_the_same_place_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--format", "vspw", "--clips", "1", "--preset", "street_train"]
    assert synth(arguments) == 0
    assert len(list(tmp_path.glob("data/*/mask/*.png"))) == 4
    assert synth(arguments) == 2
    assert "Remove the old streets" in capsys.readouterr().err
    assert synth([*arguments[:-1], "demo"]) == 2
    assert "street_train, street_eval, street_modal" in capsys.readouterr().err
