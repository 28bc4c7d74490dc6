"""The Ray dataflow: receipts of every unit, calls side by side in one actor, and errors that tell what to do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from jobs.refer_corpus import ReferCorpus
from pipeline.cluster.dataflow import PoolSize, ray_session
from pipeline.cluster.job import EXIT_OK, EXIT_USAGE, main
from pipeline.errors import ConfigError
from pipeline.query import open_run
from pipeline.synth.clip import sample_clip
from pipeline.synth.corpus import write_corpus
from pipeline.synth.presets import clip_config

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(280),
    # Ray Data sets its own deprecated options.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

POOL = PoolSize(num_actors=1, calls_per_actor=3, cpus_per_actor=0.5, gpus_per_actor=0.0)


@pytest.fixture(scope="module")
def session(ray_of_our_own: None) -> Iterator[PoolSize]:
    with ray_session(POOL, device="cpu") as pool:
        yield pool


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = clip_config("train").derive(num_frames=9, height=48, width=64)
    return write_corpus([sample_clip(config, 21, "test", i) for i in range(5)], tmp_path_factory.mktemp("corpus"))


def run(manifest: Path, lake: Path, *flags: str) -> int:
    arguments = ["--manifest", str(manifest), "--output", str(lake), "--cpus-per-actor", "0.5", "--quiet", *flags]
    return main(ReferCorpus, arguments, prog="refer_corpus")


def test_the_pool_gives_the_masks_that_one_process_gives(session: PoolSize, manifest: Path, tmp_path: Path) -> None:
    assert run(manifest, tmp_path / "ray", "--videos-per-actor", "3", "--device", "cpu") == EXIT_OK
    assert run(manifest, tmp_path / "local", "--runner", "local", "--device", "cpu") == EXIT_OK
    masks = []
    for lake in ("ray", "local"):
        with open_run(tmp_path / lake) as opened:
            masks.append(opened.sql("SELECT video_id, object_id, frame_index, rle FROM masks ORDER BY ALL").fetchall())
    assert len(masks[0]) == 5 * 9 * 3
    assert masks[0] == masks[1]


def test_the_pool_reserves_a_gpu_where_the_cluster_has_one_and_cuda_is_not_refused(session: PoolSize) -> None:
    assert session.gpus_per_actor == 0.0
    wanting = PoolSize(num_actors=1, calls_per_actor=1, cpus_per_actor=0.5, gpus_per_actor=None)
    with ray_session(wanting, device="auto") as fitted:
        assert fitted.gpus_per_actor == float(ray.cluster_resources().get("GPU", 0) > 0)
    with ray_session(wanting, device="cuda") as fitted:
        assert fitted.gpus_per_actor == 1.0


def test_cuda_on_a_machine_without_it_is_refused_instead_of_waiting_for_ever(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if ray.is_initialized() and ray.cluster_resources().get("GPU", 0):
        pytest.skip("this machine has a GPU")
    code = run(manifest, tmp_path / "lake", "--runner", "local", "--device", "cuda")
    assert code == EXIT_USAGE
    assert "CUDA" in capsys.readouterr().err


def test_a_pool_that_wants_more_gpus_than_there_are_is_told(session: PoolSize) -> None:
    from pipeline.cluster.dataflow import _check_gpus

    with pytest.raises(ConfigError, match="reserve 64 GPUs"):
        _check_gpus(PoolSize(num_actors=64, calls_per_actor=1, cpus_per_actor=1, gpus_per_actor=1.0))
