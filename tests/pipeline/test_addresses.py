"""Addresses of folders in stores, as people write them."""

from pathlib import Path

import pytest

from pipeline.addresses import Address, place
from pipeline.config import DataConfig


def test_an_address_is_kept_as_it_was_written_and_a_path_is_a_path() -> None:
    assert str(place("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert place("S3://bucket") == Address("s3://bucket")
    assert place("~/x") == Path.home() / "x"
    assert place("data/x") == Path("data/x")


def test_names_join_and_those_of_web_servers_are_encoded() -> None:
    assert str(Address.parse("s3://b/x").join("a b.tar")) == "s3://b/x/a b.tar"
    assert str(Address.parse("https://host/x").join("a b#.tar")) == "https://host/x/a%20b%23.tar"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://host/x", "s3://, gs://, https://, http://"),
        ("s3:///x", "no bucket"),
        ("https:///x", "no host"),
        ("https://user:hush@host/x", "user's name or password"),
        ("s3://hush@bucket/x", "user's name or password"),
        ("https://host/x?X-Amz-Signature=hush", "signature"),
    ],
)
def test_what_is_no_address_or_holds_a_secret_is_refused_without_telling_it(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Address.parse(text)
    assert "hush" not in str(caught.value)


def test_a_configuration_with_an_address_needs_a_cache_and_reads_what_it_has_written() -> None:
    with pytest.raises(ValueError, match="cache_folder"):
        DataConfig(train="s3://bucket/x", val="data/x", num_classes=2)
    with pytest.raises(ValueError, match="levels are read from a disk"):
        DataConfig(train="s3://bucket/x", val="data/x", num_classes=2, cache_folder="/tmp/c", levels=(256,))
    data = DataConfig(train="s3://bucket/x", val="data/x", num_classes=2, cache_folder="/tmp/c")
    assert data.model_dump(mode="json")["train"] == "s3://bucket/x"
    assert DataConfig.model_validate(data.model_dump(mode="json")) == data
    assert DataConfig.model_validate(data.model_dump()) == data
