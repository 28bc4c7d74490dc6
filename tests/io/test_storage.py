"""The store's promises, on a disk, in memory and against an S3 server."""

import errno
import multiprocessing
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, StorageError
from pipeline.io import retries
from pipeline.io.storage import MissingFile, Store, open_store
from tests.io.conftest import BUCKET


def test_what_is_written_is_read_back_and_replaced_whole(root: str) -> None:
    store = open_store(root)
    store.write_whole("a/run=R/x.json", b"first, and longer")
    store.write_whole("a/run=R/x.json", b"second")
    assert store.read_bytes("a/run=R/x.json") == b"second"
    store.write_whole("empty", b"")
    assert store.read_bytes("empty") == b""


def test_an_upload_arrives_byte_for_byte(root: str, tmp_path: Path) -> None:
    part = tmp_path / "part.parquet"
    part.write_bytes(os.urandom(300_000))
    store = open_store(root)
    store.upload(part, "data/part.parquet")
    assert store.read_bytes("data/part.parquet") == part.read_bytes()
    assert part.exists()


def test_a_missing_file_is_a_file_not_found_error_that_names_the_uri(root: str) -> None:
    store = open_store(root)
    with pytest.raises(FileNotFoundError, match=r"nothing/here.json: no such file") as caught:
        store.read_bytes("nothing/here.json")
    assert isinstance(caught.value, MissingFile)
    assert store.uri("nothing/here.json") in str(caught.value)
    assert not caught.value.retryable


def test_listing_is_recursive_sorted_and_empty_where_nothing_is(root: str) -> None:
    store = open_store(root)
    assert store.list() == []
    assert store.list("absent") == []
    for path in ("t/b/2", "t/a/1", "t/c", "tt/other"):
        store.write_whole(path, path.encode())
    assert [(file.path, file.bytes) for file in store.list("t")] == [("t/a/1", 5), ("t/b/2", 5), ("t/c", 3)]
    assert [file.path for file in store.list("t/")] == ["t/a/1", "t/b/2", "t/c"]
    assert store.list("t/c") == [], "a file is not a directory"
    assert len(store.list()) == 4
    assert all(abs(file.modified_at - store.list("tt")[0].modified_at) < 60 for file in store.list())


def test_delete_forgives_what_is_not_there(root: str) -> None:
    store = open_store(root)
    for path in ("a", "b/c"):
        store.write_whole(path, b"")
    store.delete(["a", "never/was", "b/c"])
    assert store.list() == []
    store.delete([])


def test_exists_is_true_of_files_only(root: str) -> None:
    store = open_store(root)
    store.write_whole("folder/file", b"x")
    assert store.exists("folder/file")
    assert not store.exists("folder")
    assert not store.exists("file")


def test_the_first_of_many_writers_wins(root: str) -> None:
    store = open_store(root)
    told: dict[int, bool] = {}
    barrier = threading.Barrier(8)

    def write(writer: int) -> None:
        barrier.wait()
        told[writer] = store.write_if_absent("_commits/unit.json", b"writer %d" % writer)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [writer for writer, won in told.items() if won]
    assert len(winners) == 1
    assert store.read_bytes("_commits/unit.json") == b"writer %d" % winners[0]
    assert [file.path for file in store.list()] == ["_commits/unit.json"]


def test_a_store_pickles_as_its_uri(root: str) -> None:
    store = open_store(root)
    store.write_whole("x", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.root_uri == store.root_uri
    assert copy.read_bytes("x") == b"1"


def test_what_another_client_writes_is_listed_at_once(s3_root: str) -> None:
    store = open_store(s3_root)
    store.write_whole("a/1", b"")
    assert len(store.list("a")) == 1
    boto3.client("s3").put_object(Bucket=BUCKET, Key=f"{s3_root.removeprefix(f's3://{BUCKET}/')}/a/2", Body=b"other")
    assert [file.path for file in store.list("a")] == ["a/1", "a/2"]
    assert store.exists("a/2")


def test_a_whole_bucket_can_be_the_root(s3_endpoint: str) -> None:
    boto3.client("s3").create_bucket(Bucket="roots")
    store = open_store("s3://roots/")
    assert store.list() == []
    store.write_whole("a/b", b"1")
    assert [file.path for file in store.list()] == [file.path for file in store.list("a")] == ["a/b"]
    assert (store.uri("a/b"), store.full_path("a/b")) == ("s3://roots/a/b", "roots/a/b")


def test_only_the_objects_that_were_asked_for_are_put(s3_root: str) -> None:
    store = open_store(s3_root)
    store.write_whole("deep/er/file", b"x")
    store.write_if_absent("deep/other", b"y")
    keys = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=s3_root.removeprefix(f"s3://{BUCKET}/"))
    assert [key["Key"].partition("/")[2] for key in keys["Contents"]] == ["deep/er/file", "deep/other"]


def test_a_conditional_put_whose_answer_was_lost_is_still_its_writers(s3_root: str) -> None:
    store = open_store(s3_root)
    assert store.write_if_absent("commit", b"attempt 1")
    assert store.write_if_absent("commit", b"attempt 1"), "the same bytes: an earlier try of the same call"
    assert not store.write_if_absent("commit", b"attempt 2")


def test_a_bucket_that_does_not_exist_is_an_error_and_not_an_empty_lake(s3_endpoint: str) -> None:
    store = open_store("s3://no-such-bucket/lake")
    for action in (store.list, lambda: store.write_whole("x", b"")):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/lake.*a bucket must exist") as caught:
            action()
        assert not caught.value.retryable


def test_listing_more_than_one_page(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    bucket = boto3.client("s3")
    prefix = s3_root.removeprefix(f"s3://{BUCKET}/")
    for number in range(25):
        bucket.put_object(Bucket=BUCKET, Key=f"{prefix}/n/{number:04d}", Body=b"")
    store = open_store(s3_root)
    assert [file.path for file in store.list("n")] == [f"n/{number:04d}" for number in range(25)]
    store.delete(file.path for file in store.list("n"))
    assert store.list("n") == []


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_duckdb_and_pyarrow_read_through_the_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = open_store(request.getfixturevalue(f"{kind}_root"))
    pq.write_table(pa.table({"frame_index": [3, 4, 5]}), tmp_path / "part.parquet")
    store.upload(tmp_path / "part.parquet", "masks/part.parquet")
    assert pq.read_table(store.full_path("masks/part.parquet"), filesystem=store.filesystem).num_rows == 3
    with duckdb.connect() as connection:
        connection.register_filesystem(store.filesystem)
        query = f"select sum(frame_index) from read_parquet('{store.uri('masks/part.parquet')}')"
        assert connection.execute(query).fetchall() == [(12,)]


def test_a_writer_killed_halfway_leaves_no_file(tmp_path: Path) -> None:
    store = open_store(tmp_path / "lake")
    store.write_whole("data/kept", b"old")
    process = multiprocessing.get_context("spawn").Process(target=_die_while_writing, args=(store,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert [file.path for file in store.list()] == ["data/kept"]
    assert store.read_bytes("data/kept") == b"old"
    assert [file.bytes for file in store.list_abandoned("data")] == [3]


def _die_while_writing(store: Store) -> None:
    os.replace = lambda *_: os._exit(9)  # type: ignore[assignment]
    store.write_whole("data/kept", b"new")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = open_store(tmp_path / "lake")
    store.write_whole("a", b"old")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(StorageError, match=r"lake/a: OSError.*The disk is full") as caught:
        store.write_whole("a", b"new")
    assert caught.value.retryable
    monkeypatch.undo()
    assert store.read_bytes("a") == b"old"
    assert store.list_abandoned() == []


def test_a_disk_without_hard_links_still_refuses_a_second_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = open_store(tmp_path)
    assert store.write_if_absent("x", b"1")
    assert not store.write_if_absent("x", b"2")
    assert store.read_bytes("x") == b"1"
    assert [file.path for file in store.list()] == ["x"]


def test_files_that_vanish_while_a_directory_is_listed_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    for name in ("a", "b", "c"):
        store.write_whole(f"d/{name}", b"")
    look = os.stat

    def vanishing(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("d/b"):
            raise FileNotFoundError(path)
        return look(path, **options)

    monkeypatch.setattr(os, "stat", vanishing)
    assert [file.path for file in store.list("d")] == ["d/a", "d/c"]


class Flaky:
    """An action that fails with each of some errors in turn before it succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "RETRY_DELAYS_SECONDS", (0.0, 0.0, 0.0))


@pytest.mark.usefixtures("_no_waiting")
def test_transient_errors_are_tried_again_and_lasting_ones_are_not() -> None:
    flaky = Flaky(TimeoutError("slow"), ConnectionResetError("reset"), OSError(errno.EBUSY, "SlowDown"))
    assert retries.with_retries(flaky, doing="read", uri="s3://b/k") == "done"
    assert flaky.calls == 4
    denied = Flaky(PermissionError("Forbidden"), TimeoutError("never seen"))
    with pytest.raises(
        StorageError, match=r"cannot read s3://b/k: PermissionError: Forbidden\. Check the cred"
    ) as caught:
        retries.with_retries(denied, doing="read", uri="s3://b/k")
    assert denied.calls == 1
    assert not caught.value.retryable


@pytest.mark.usefixtures("_no_waiting")
def test_patience_ends_and_says_that_a_later_call_may_succeed() -> None:
    flaky = Flaky(*[TimeoutError("slow")] * 9)
    with pytest.raises(StorageError, match="Gave up after 4 tries") as caught:
        retries.with_retries(flaky, doing="write", uri="s3://b/k")
    assert flaky.calls == 4
    assert caught.value.retryable


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize(
    ("status", "transient"), [(500, True), (503, True), (429, True), (409, True), (412, False), (400, False)]
)
def test_a_stores_status_decides_whether_to_try_again(status: int, transient: bool) -> None:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    answer: Any = {"Error": {"Code": f"Odd{status}", "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert retries.is_transient(translate_boto_error(ClientError(answer, "PutObject"))) is transient


def test_our_own_mistakes_are_not_dressed_up_as_a_stores_failure() -> None:
    with pytest.raises(TypeError):
        retries.with_retries(lambda: len(3), doing="read", uri="x")  # type: ignore[arg-type]


def test_a_server_that_answers_busy_once_is_asked_again(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "RETRY_DELAYS_SECONDS", (0.0,))
    store = open_store(s3_root)
    filesystem = store.filesystem
    put, answers = type(filesystem).pipe_file, [OSError(errno.EBUSY, "SlowDown")]

    def busy_once(path: str, data: bytes, **options: Any) -> None:
        if answers:
            raise answers.pop()
        put(filesystem, path, data, **options)

    monkeypatch.setattr(filesystem, "pipe_file", busy_once, raising=False)
    store.write_whole("x", b"1")
    assert store.read_bytes("x") == b"1"


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\0b"])
def test_a_path_that_leaves_the_root_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="relative to the store's root"):
        open_store(tmp_path).read_bytes(path)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "expected a local path"),
        ("s3://", "names no bucket"),
        ("s3:/bucket/key", "two slashes"),
        ("s3:bucket", "two slashes"),
        ("file://relative/path", "three slashes"),
        ("carrier-pigeon://x/y", r"not a known scheme.*s3"),
    ],
)
def test_a_malformed_root_says_what_was_expected(uri: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_store(uri)


def test_a_scheme_whose_package_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from pipeline.io import uris

    uris._filesystem.cache_clear()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"pip install 'masklake\[s3\]'"):
        open_store("s3://bucket/x")


def test_a_place_where_files_are_seen_half_written_is_refused_for_writing() -> None:
    with pytest.raises(ConfigError, match="half-written"):
        open_store("https://example.org/lake").write_whole("x", b"")


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("here/lake/")
    assert store.root_uri == os.path.join(os.getcwd(), "here", "lake")
    assert open_store(f"file://{tmp_path}/x").root_uri == f"{tmp_path}/x"
    store.write_whole("a", b"")
    assert (tmp_path / "here/lake/a").exists()


def test_amazons_own_endpoints_keep_their_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.io.uris import filesystem_of

    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.eu-west-1.amazonaws.com")
    assert filesystem_of("s3").config_kwargs == {}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio.example.org")
    assert filesystem_of("s3").config_kwargs["request_checksum_calculation"] == "when_required"
    assert filesystem_of("s3").endpoint_url == "https://minio.example.org"
