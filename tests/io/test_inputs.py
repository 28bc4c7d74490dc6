"""Inputs opened where they lie, downloaded to scratch, or read by ranges."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import DecodeError, StorageError
from pipeline.io import retries
from pipeline.io.inputs import InputHandle, input_bytes, open_input
from pipeline.io.storage import open_store
from pipeline.io.uris import filesystem_of

VIDEO = os.urandom(3_500_000)


class VideoServer(BaseHTTPRequestHandler):
    """Serves VIDEO: /clip.mp4 by ranges, /whole.mp4 not by ranges, /stream.mp4 without telling its size."""

    requests: list[str] = []  # noqa: RUF012  one server a session

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        wanted = self.headers.get("Range")
        self.requests.append(f"{self.command} {path} {wanted}")
        if path not in ("/clip.mp4", "/whole.mp4", "/stream.mp4"):
            self.send_error(403 if path == "/private.mp4" else 404)
            return
        body = VIDEO
        if path == "/clip.mp4" and wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            body = VIDEO[int(first) : int(last or len(VIDEO)) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(VIDEO)}")
        else:
            self.send_response(200)
        if path != "/stream.mp4":
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"v1"')
        self.end_headers()
        with suppress(ConnectionError):  # a client may have heard enough
            self.wfile.write(body if with_body else b"")


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), VideoServer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def content(handle: InputHandle) -> bytes:
    if handle.file is not None:
        handle.file.seek(0)
        return handle.file.read()
    assert handle.local_path is not None
    return handle.local_path.read_bytes()


def test_a_local_video_is_used_where_it_lies(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(VIDEO)
    with open_input(str(video), scratch_dir=tmp_path / "scratch") as handle:
        assert handle.local_path == video
        assert handle.bytes == len(VIDEO)
        first = handle.etag
    assert not (tmp_path / "scratch").exists()
    os.utime(video, ns=(1, 1))
    with open_input(str(video)) as handle:
        assert handle.etag != first, "a changed file has another version"


def test_a_local_directory_of_frames_counts_its_files(tmp_path: Path) -> None:
    for name, size in (("00001.jpg", 10), ("00000.jpg", 7)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "sub").mkdir()
    with open_input(str(tmp_path)) as handle:
        assert (handle.local_path, handle.bytes) == (tmp_path, 17)
    assert input_bytes(str(tmp_path)) == 17


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_remote_video_is_downloaded_and_deleted(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = open_store(request.getfixturevalue(f"{kind}_root"))
    store.write_whole("v/my clip#1.mp4", VIDEO)
    with open_input(store.uri("v/my clip#1.mp4"), scratch_dir=tmp_path) as handle:
        assert handle.local_path is not None
        assert handle.local_path.parent.parent == tmp_path
        assert handle.local_path.suffix == ".mp4"
        assert content(handle) == VIDEO
        assert handle.bytes == len(VIDEO) == input_bytes(store.uri("v/my clip#1.mp4"))
        assert (handle.etag is not None) == (kind == "s3")
    assert list(tmp_path.iterdir()) == []


def test_the_scratch_copy_goes_also_when_reading_fails(memory_root: str, tmp_path: Path) -> None:
    open_store(memory_root).write_whole("a.mp4", VIDEO)
    with pytest.raises(RuntimeError), open_input(f"{memory_root}/a.mp4", scratch_dir=tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["memory", "s3"])
@pytest.mark.parametrize(("access", "cap"), [("ranges", 2**30), ("whole", 1000)])
def test_a_clip_or_a_large_video_is_read_by_ranges(
    kind: str, access: str, cap: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = open_store(request.getfixturevalue(f"{kind}_root"))
    store.write_whole("a.mp4", VIDEO)
    with open_input(store.uri("a.mp4"), access=access, scratch_dir=tmp_path, max_scratch_bytes=cap) as handle:  # type: ignore[arg-type]
        assert handle.local_path is None
        assert handle.file is not None
        handle.file.seek(3_000_000)
        assert handle.file.read(100) == VIDEO[3_000_000:3_000_100]
        assert handle.bytes == len(VIDEO)
        assert content(handle) == VIDEO
    assert list(tmp_path.iterdir()) == []


def test_two_readers_of_one_input_do_not_move_each_other(memory_root: str) -> None:
    open_store(memory_root).write_whole("a.mp4", b"0123456789")
    uri = f"{memory_root}/a.mp4"
    with open_input(uri, access="ranges") as one, open_input(uri, access="ranges") as other:
        assert one.file is not None
        assert other.file is not None
        assert (one.file.read(2), other.file.read(5), one.file.read(2)) == (b"01", b"01234", b"23")


def test_a_clip_from_the_web_costs_the_blocks_it_lies_in(web: str) -> None:
    VideoServer.requests.clear()
    with open_input(f"{web}/clip.mp4?signature=secret", access="ranges") as handle:
        assert handle.file is not None
        assert handle.name == f"{web}/clip.mp4"
        assert handle.etag == "v1"
        for start in range(2_200_000, 2_300_000, 1000):
            handle.file.seek(start)
            assert handle.file.read(1000) == VIDEO[start : start + 1000]
    fetched = [line for line in VideoServer.requests if line.startswith("GET") and not line.endswith("None")]
    blocks = [line.partition("bytes=")[2].partition("-")[0] for line in fetched]
    assert blocks == [str(3 * 2**20), str(2 * 2**20)], "the last one to see whether ranges are served, then the clip's"


def test_a_server_that_gives_the_whole_instead_of_a_range_is_downloaded_up_to_the_cap(web: str, tmp_path: Path) -> None:
    with open_input(f"{web}/whole.mp4", access="ranges", scratch_dir=tmp_path) as handle:
        assert handle.local_path is not None
        assert content(handle) == VIDEO
    with (
        pytest.raises(DecodeError, match=r"3500000 bytes, more than the 1000000 allowed.*does not serve ranges"),
        open_input(f"{web}/whole.mp4", access="whole", scratch_dir=tmp_path, max_scratch_bytes=1_000_000),
    ):
        pass
    with open_input(f"{web}/clip.mp4", access="whole", scratch_dir=tmp_path) as handle:
        assert handle.local_path is not None
        assert content(handle) == VIDEO


def test_a_server_that_tells_no_size_is_downloaded_up_to_the_cap(web: str, tmp_path: Path) -> None:
    with open_input(f"{web}/stream.mp4", access="ranges", scratch_dir=tmp_path) as handle:
        assert handle.bytes == len(VIDEO)
        assert content(handle) == VIDEO
    with (
        pytest.raises(DecodeError, match="tells no size, and more than 1000000 bytes came"),
        open_input(f"{web}/stream.mp4", scratch_dir=tmp_path, max_scratch_bytes=1_000_000),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    assert input_bytes(f"{web}/stream.mp4") is None


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_remote_directory_of_frames_is_downloaded_with_its_names(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = open_store(request.getfixturevalue(f"{kind}_root"))
    frames = {f"{number:05d}.png": os.urandom(100 + number) for number in range(12)}
    for name, data in frames.items():
        store.write_whole(f"frames/clip/{name}", data)
    store.write_whole("frames/clip/nested/other.png", b"x")
    total = sum(len(data) for data in frames.values())
    with open_input(store.uri("frames/clip"), scratch_dir=tmp_path) as handle:
        assert handle.local_path is not None
        assert {path.name: path.read_bytes() for path in handle.local_path.iterdir()} == frames
        assert handle.bytes == total == input_bytes(store.uri("frames/clip"))
        assert handle.etag is not None
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(DecodeError, match=f"a directory of {total} bytes, more than the 100 allowed"),
        open_input(store.uri("frames/clip"), max_scratch_bytes=100, scratch_dir=tmp_path),
    ):
        pass


@pytest.mark.parametrize("kind", ["local", "memory", "s3", "web"])
def test_a_missing_input_says_where_it_was_looked_for(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = (
        os.fspath(tmp_path) if kind == "local" else request.getfixturevalue("web" if kind == "web" else f"{kind}_root")
    )
    with (
        pytest.raises(DecodeError, match=r"nowhere/clip\.mp4: no such file or directory"),
        open_input(f"{place}/nowhere/clip.mp4"),
    ):
        pass
    with pytest.raises(DecodeError, match="no such file"):
        input_bytes(f"{place}/nowhere/clip.mp4")


def test_an_input_without_permission_is_not_worth_a_retry(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(filesystem_of("s3"), "info", denied, raising=False)
    with (
        pytest.raises(DecodeError, match=r"clip\.mp4: permission denied \(Forbidden\)"),
        open_input(f"{s3_root}/clip.mp4"),
    ):
        pass
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DecodeError, match="permission denied"), open_input(str(video)):
        pass


def test_what_is_neither_file_nor_directory_is_refused_without_waiting_on_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DecodeError, match="neither a file nor a directory"), open_input(str(tmp_path / "pipe.mp4")):
        pass


def test_a_download_cut_short_is_an_error_worth_a_retry(
    memory_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(path: str, target: str) -> None:
        Path(target).write_bytes(VIDEO[:1000])

    open_store(memory_root).write_whole("a.mp4", VIDEO)
    monkeypatch.setattr(filesystem_of("memory"), "get_file", cut_short, raising=False)
    with (
        pytest.raises(StorageError, match="downloaded 1000 bytes of 3500000") as caught,
        open_input(f"{memory_root}/a.mp4"),
    ):
        pass
    assert caught.value.retryable


def test_a_store_that_stays_busy_is_an_error_worth_a_retry(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise TimeoutError("slow")

    monkeypatch.setattr(retries, "RETRY_DELAYS_SECONDS", (0.0,))
    monkeypatch.setattr(filesystem_of("s3"), "info", busy, raising=False)
    with pytest.raises(StorageError, match="Gave up after 2 tries") as caught, open_input(f"{s3_root}/a.mp4"):
        pass
    assert caught.value.retryable


def test_an_unknown_scheme_is_told_as_the_videos_fault() -> None:
    with pytest.raises(DecodeError, match="not a known scheme"), open_input("pigeon://loft/a.mp4"):
        pass
