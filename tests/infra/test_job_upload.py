"""What `ray job submit --working-dir .` would upload: the package whole, nothing else, far below Ray's limit."""

import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
RAY_LIMIT_BYTES = 100 * 1024 * 1024
PACKAGES = ("pipeline", "schemas", "jobs")


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The archive that Ray itself makes of the repository."""
    from ray._private.runtime_env.packaging import create_package

    archive = tmp_path_factory.mktemp("upload") / "package.zip"
    create_package(str(ROOT), archive, include_gitignore=True)
    return zipfile.ZipFile(archive)


def test_the_upload_is_far_below_rays_limit(upload: zipfile.ZipFile) -> None:
    assert upload.filename is not None
    assert Path(upload.filename).stat().st_size < RAY_LIMIT_BYTES / 2


def test_the_upload_holds_every_file_of_the_package(upload: zipfile.ZipFile) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= set(upload.namelist())


def test_the_upload_holds_no_folder_that_a_job_does_not_need(upload: zipfile.ZipFile) -> None:
    folders = {name.partition("/")[0] for name in upload.namelist() if "/" in name}
    assert folders == set(PACKAGES)


def test_configs_and_manifests_go_along_and_data_stays_behind(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    wanted = {"pipeline/tiny.safetensors", "jobs/a.py", "run.yaml", "clips.csv", "configs/night.yaml"}
    unwanted = {"out/run/big.parquet", "weights.pt", "tests/test_x.py", "jobs/__pycache__/a.pyc", ".venv/lib/x.py"}
    root = tmp_path / "repository"
    for name in wanted | unwanted:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / ".rayignore").write_text((ROOT / ".rayignore").read_text(encoding="utf-8"), encoding="utf-8")
    create_package(str(root), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        assert {name for name in archive.namelist() if not name.endswith("/")} == wanted
