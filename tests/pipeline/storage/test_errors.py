"""What goes wrong with a store, told apart."""

import errno

import pytest

from pipeline.addresses import Address
from pipeline.storage.errors import (
    BeyondTheEndError,
    NoBucketError,
    NotInStoreError,
    StoreError,
    StoreGoneError,
    StoreRefusedError,
    understood,
)

FILE = Address("s3://bucket/set/train-000000.tar")


class S3Error(Exception):
    def __init__(self, code: str, status: int) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class WebError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class NoCredentialsError(Exception): ...


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (S3Error("NoSuchBucket", 404), NoBucketError),
        (S3Error("NoSuchKey", 404), NotInStoreError),
        (S3Error("AccessDenied", 403), StoreRefusedError),
        (S3Error("SlowDown", 503), StoreGoneError),
        (S3Error("SomethingNew", 500), StoreGoneError),
        (S3Error("SomethingNew", 400), StoreError),
        (S3Error("InvalidRange", 416), BeyondTheEndError),
        (WebError(404), NotInStoreError),
        (WebError(401), StoreRefusedError),
        (WebError(429), StoreGoneError),
        (WebError(502), StoreGoneError),
        (WebError(418), StoreError),
        (NoCredentialsError(), StoreRefusedError),
        (PermissionError("no"), StoreRefusedError),
        (FileNotFoundError("no"), NotInStoreError),
        (ConnectionResetError(), StoreGoneError),
        (TimeoutError(), StoreGoneError),
        (OSError(errno.ENETUNREACH, "unreachable"), StoreGoneError),
        (RuntimeError("what is that"), StoreError),
    ],
)
def test_an_error_is_told_by_the_code_of_the_answer_or_by_its_class(error: Exception, kind: type[StoreError]) -> None:
    assert type(understood(error, FILE)) is kind
    assert "s3://bucket" in str(understood(error, FILE))


def test_what_a_package_hides_behind_an_absent_file_is_seen() -> None:
    """fsspec says of a web server that fails that the file is not there."""
    hidden = FileNotFoundError("x")
    hidden.__cause__ = WebError(503)
    assert isinstance(understood(hidden, FILE), StoreGoneError)
