"""The feature cache on Ray Data: the rows that one process writes, and errors of an actor come home as they are."""

import pickle
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.train_semantic import TrainSemantic, read_job
from pipeline.cluster.masklet_cache import CacheActor, build_on_ray
from pipeline.errors import ConfigError, DecodeError, WeightsError
from pipeline.io.storage import open_store
from pipeline.synth.layouts_street import write_vspw
from pipeline.synth.street import iter_streets
from pipeline.synth.street_config import street_config
from pipeline.training import masklet_cache
from pipeline.training.masklet_cache import ensure_cache, read_cache
from tests.models.random_sam2 import save_random_sam2

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(280),
    # Ray Data sets its own deprecated options.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]

NUM_VIDEOS = 5


@pytest.fixture(scope="module")
def vspw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vspw")
    config = street_config("street_train").derive(height=64, width=96, num_frames=2)
    write_vspw({"train": iter_streets(config, 0, "train", range(NUM_VIDEOS))}, root)
    return root


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masklet_cache, "VIDEOS_PER_PART", 2)


def job(output: Path, data: Path, model: Path, *flags: str) -> TrainSemantic:
    fixed = ["--device", "cpu", "--num-threads", "0", "--torch-threads", "1", "--min-purity", "0"]
    # Random weights cut much the same out wherever they are asked.
    loose = [
        f"--proposals.{name}" for name in ("min-predicted-iou=0", "min-stability=0", "max-box-iou=1", "max-mask-iou=1")
    ]
    few = ["--proposals.points-per-side", "3", "--proposals.max-masklets", "6"]
    pool = ["--runner", "ray", "--cpus-per-worker", "0.5"]
    named = ["--output", str(output), "--data", f"vspw:{data}", "--model", str(model)]
    return read_job([*named, *fixed, *loose, *few, *pool, *flags])


@pytest.mark.usefixtures("ray_of_our_own")
def test_actors_write_the_rows_that_one_process_writes(vspw: Path, sam2: Path, tmp_path: Path) -> None:
    on_ray, here = job(tmp_path / "ray", vspw, sam2, "--num-workers", "2"), job(tmp_path / "here", vspw, sam2)
    ensure_cache(on_ray.cache_settings(), build_on_ray(on_ray))
    ensure_cache(here.cache_settings())
    names = sorted(file.name for file in (tmp_path / "here" / "cache").glob("*.parquet"))
    assert names == ["part-0000000.parquet", "part-0000002.parquet", "part-0000004.parquet"]
    for name in (*names, "cache.json"):
        ours, other = (tmp_path / runner / "cache" / name for runner in ("ray", "here"))
        if name == "cache.json":
            assert ours.read_text() == other.read_text()
        else:
            table = pq.read_table(ours)
            assert table.equals(pq.read_table(other), check_metadata=True), name
            assert len(set(table["video_id"].to_pylist())) == (1 if name == names[-1] else 2)
            assert table.num_rows > 8
    found = read_cache(open_store(tmp_path / "ray"))
    assert len(found.features_ND) == sum(pq.read_table(tmp_path / "ray" / "cache" / name).num_rows for name in names)
    # A cache that is whole is not built again, by whomever it was written.
    ensure_cache(
        here.model_copy(update={"output": str(tmp_path / "ray")}).cache_settings(),
        lambda *_: pytest.fail("it is there"),
    )


@pytest.mark.usefixtures("ray_of_our_own")
def test_what_an_actor_cannot_read_is_told_as_it_would_be_in_one_process(
    vspw: Path, sam2: Path, tmp_path: Path
) -> None:
    root = tmp_path / "vspw"
    shutil.copytree(vspw, root)
    broken = sorted((root / "data").glob("*/mask/*.png"))[-1]
    broken.write_bytes(b"no picture")
    damaged = job(tmp_path / "damaged", root, sam2, "--num-workers", "1")
    with pytest.raises(DecodeError, match=f"{broken.name}: cannot be read as a picture"):
        ensure_cache(damaged.cache_settings(), build_on_ray(damaged))
    assert not (tmp_path / "damaged" / "cache" / "cache.json").exists()


def test_a_model_that_is_not_there_is_told_before_ray_starts(vspw: Path, tmp_path: Path) -> None:
    without = job(tmp_path / "without", vspw, tmp_path / "nowhere")
    build = build_on_ray(without)
    with pytest.raises(WeightsError, match="nowhere"):
        next(iter(build(without.cache_settings(), [(0, 2)])))


def test_an_actor_that_cannot_be_built_gives_its_error_as_a_value(vspw: Path, sam2: Path, tmp_path: Path) -> None:
    settings = job(tmp_path / "odd", vspw, sam2, "--image-size", "100").cache_settings()
    answer = CacheActor(settings.model_dump_json())({"first": 0, "stop": 2})
    with pytest.raises(ConfigError, match="image_size 100"):
        raise pickle.loads(answer["error"])
