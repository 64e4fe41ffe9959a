"""Addresses of folders that are reached over a network: ``s3://bucket/prefix``, ``gs://...``, ``https://...``.

An address is text and no path: two slashes in a row would be lost in one.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, PlainSerializer, SerializationInfo
from pydantic_core import PydanticCustomError, PydanticSerializationUnexpectedValue

from pipeline.files import user_path

SCHEMES = {
    "s3": "an S3 bucket",
    "gs": "a Google Cloud Storage bucket",
    "https": "a folder of a web server",
    "http": "a folder of a web server",
}
_WEB = ("http", "https")  # whose names of files stand percent-encoded
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class Address:
    """A folder, or a file in one, in a store. ``text`` ends without a slash."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises ValueError, without the secrets that the text may hold."""
        found = _SCHEME.match(text)
        scheme = found[1].lower() if found else ""
        if scheme not in SCHEMES:
            allowed = ", ".join(f"{one}://" for one in SCHEMES)
            raise ValueError(f"an address in a store begins with one of {allowed}; got {scheme or text!r}://")
        parts = urlsplit(text)
        shown = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if "@" in parts.netloc:
            raise ValueError(
                f"{shown}: the address holds a user's name or password, which would be written into records; leave it "
                "out, and give credentials by the environment (docs/storage.md)"
            )
        if parts.query or parts.fragment:
            raise ValueError(
                f"{shown}: an address ends with its path; what follows a ? or # can be a signature, which is a secret, "
                "and names no folder"
            )
        if not parts.netloc:
            raise ValueError(f"{text}: names no {'host' if scheme in _WEB else 'bucket'}")
        return cls(f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}")

    @property
    def scheme(self) -> str:
        return self.text.partition("://")[0]

    @property
    def bucket(self) -> str:
        """What stands behind the scheme: the bucket, or the web server."""
        return self.text.partition("://")[2].partition("/")[0]

    def join(self, name: str) -> "Address":
        """Of a file in this folder. ``name`` may lead through sub-folders."""
        return Address(f"{self.text}/{quote(name) if self.scheme in _WEB else name}")

    def __str__(self) -> str:
        return self.text


def is_address(text: object) -> bool:
    """Whether a text that a person wrote means a store and no path, be it a known kind of store or not."""
    return isinstance(text, str) and _SCHEME.match(text) is not None


def place(text: Any) -> Any:
    """What a person wrote as an address or as a path. Raises ValueError."""
    if is_address(text):
        return Address.parse(text)
    if isinstance(text, str | Path):
        return user_path(text)
    if isinstance(text, Address):
        return text
    raise PydanticCustomError("place_type", "Input should be a folder, or an address such as s3://bucket/prefix")


def _written(value: Any, info: SerializationInfo) -> Any:
    if not isinstance(value, Path | Address):  # where a key holds a place or something else, it is that
        raise PydanticSerializationUnexpectedValue("neither a path nor an address")
    return str(value) if info.mode_is_json() or isinstance(value, Address) else value


Place = Annotated[Path | Address, BeforeValidator(place), PlainSerializer(_written)]
"""A folder: on a disk, in which ``~`` is the home folder, or in a store."""
