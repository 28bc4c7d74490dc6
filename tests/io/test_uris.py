"""URIs made absolute and taken apart."""

import pytest

from pipeline.io.uris import absolute_uri, name_of, parent_uri, split_uri


@pytest.mark.parametrize(
    ("uri", "base", "absolute"),
    [
        ("v/a.mp4", "s3://bucket/lists", "s3://bucket/lists/v/a.mp4"),
        ("../v/a.mp4", "s3://bucket/lists", "s3://bucket/v/a.mp4"),
        ("../../../a.mp4", "s3://bucket/lists", "s3://bucket/a.mp4"),
        ("a.mp4", "s3://bucket", "s3://bucket/a.mp4"),
        ("v/a.mp4", "/data/lists", "/data/lists/v/a.mp4"),
        ("../a.mp4", "/data/lists", "/data/a.mp4"),
        ("/abs/a.mp4", "s3://bucket/lists", "/abs/a.mp4"),
        ("gs://other/a.mp4", "s3://bucket/lists", "gs://other/a.mp4"),
        ("gcs://other/a.mp4", None, "gs://other/a.mp4"),
        ("S3A://b/frames/", None, "s3://b/frames"),
        ("file:///data/a.mp4", "s3://b/x", "/data/a.mp4"),
        ("https://host/a.mp4?token=1/2", "/data", "https://host/a.mp4?token=1/2"),
        ("a b#1?.mp4", "s3://b/x", "s3://b/x/a b#1?.mp4"),
    ],
)
def test_relative_paths_start_from_the_base(uri: str, base: str | None, absolute: str) -> None:
    assert absolute_uri(uri, base=base) == absolute


@pytest.mark.parametrize(
    ("uri", "scheme", "path", "parent", "name"),
    [
        ("/data/v/a.mp4", "file", "/data/v/a.mp4", "/data/v", "a.mp4"),
        ("s3://b/v/a.mp4", "s3", "b/v/a.mp4", "s3://b/v", "a.mp4"),
        ("memory://b/a.mp4", "memory", "/b/a.mp4", "memory://b", "a.mp4"),
        ("https://h/v/a.mp4?x=1/2", "https", "https://h/v/a.mp4?x=1/2", "https://h/v", "a.mp4"),
    ],
)
def test_a_uri_is_taken_apart(uri: str, scheme: str, path: str, parent: str, name: str) -> None:
    assert split_uri(uri) == (scheme, path)
    assert parent_uri(uri) == parent
    assert name_of(uri) == name
