"""End-to-end tests share the S3 server of the io tests."""

from tests.io.conftest import s3_endpoint, s3_root

__all__ = ["s3_endpoint", "s3_root"]
