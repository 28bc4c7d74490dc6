"""A real method under the real engine and worker: SAMWISE's masks do not depend on threads, company or restarts."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.decode.video import open_video
from pipeline.engine.engine import Engine, segment_video
from pipeline.engine.load_model import load_model
from pipeline.engine.prompts import prompts_of
from pipeline.engine.worker import Worker, WorkerSettings
from pipeline.io.weights import resolve_model
from pipeline.methods import samwise
from pipeline.methods.samwise import SamwiseSegmenter
from pipeline.ticks import Prompt, Tick
from schemas.work_unit import WorkUnit
from tests.engine.lakes import RUN_ID, assert_rows_are, item_of, rows_in, write_video
from tests.fakes import assert_same_masks, masks_alone, ticks_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

SIZE = (36, 52)


@pytest.fixture(scope="module")
def segmenter() -> SamwiseSegmenter:
    config, model = samwise.mini()
    return samwise.build_segmenter(config, model, "cpu")


@pytest.fixture
def engine(segmenter: SamwiseSegmenter) -> Iterator[Engine]:
    with Engine(segmenter, max_sessions=4, torch_threads=1) as running:
        yield running


def videos() -> list[tuple[list[Prompt], list[Tick]]]:
    return [
        (samwise.example_prompts(number, SIZE), list(ticks_of(number, num_frames, size=SIZE)))
        for number, num_frames in ((1, 11), (3, 17), (2, 8), (1, 9))
    ]


def test_videos_in_company_give_the_masks_that_each_gives_alone(segmenter: SamwiseSegmenter, engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda video: list(segment_video(engine, *video)), videos()))
    for masks, video in zip(given, videos(), strict=True):
        assert_same_masks(masks, masks_alone(segmenter, *video))
    statistics = engine.statistics()
    assert statistics.frames == 11 + 17 + 8 + 9
    assert statistics.bytes_held == 0


def test_a_video_goes_on_from_its_state_in_the_middle_of_a_clip(segmenter: SamwiseSegmenter, engine: Engine) -> None:
    prompts, ticks = videos()[1]
    handle = engine.open(prompts, SIZE)
    masks = []
    for tick in ticks[:11]:
        handle.submit(tick)
        masks += handle.take(block=False)
    state = handle.state_dict()
    masks += handle.take()
    handle.close()
    restored = engine.restore(state)
    for tick in ticks[11:]:
        restored.submit(tick)
    restored.end()
    while some := restored.take():
        masks += some
    assert_same_masks(masks, masks_alone(segmenter, prompts, ticks))


def test_a_worker_built_from_its_settings_alone_commits_the_methods_masks(tmp_path: Path) -> None:
    item = item_of(write_video(tmp_path / "a.mp4", 13), "red disc moving left", "the blue square")
    settings = WorkerSettings(
        lake=str(tmp_path / "lake"),
        method="samwise",
        method_config={"clip_length": 4},
        model="tiny",
        offline=True,
        seed=3,
        device="cpu",
        snapshot_frames=5,
    )
    unit = WorkUnit(run_id=RUN_ID, method="samwise", config_hash="c", items=(item,))
    with Worker(WorkerSettings.model_validate_json(settings.model_dump_json())) as worker:
        receipt = worker(unit.to_json())
    assert (receipt.status, receipt.frames, receipt.errors) == ("committed", 13, ())
    config = samwise.SamwiseConfig(clip_length=4)
    alone = samwise.build_segmenter(config, load_model(resolve_model("tiny", offline=True), seed=3), "cpu")
    with open_video(item.video_uri) as stream:
        expected = masks_alone(alone, prompts_of(item.queries), list(stream))
    rows = rows_in(tmp_path / "lake")
    assert_rows_are(rows, item, expected)
    assert len({row["confidence"] for row in rows}) > 13
