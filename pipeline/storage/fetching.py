"""One file from a store into the cache: gone on with where it broke off, whole and as the index says, or not at all."""

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.addresses import Address
from pipeline.storage.cache import Cache, CachedFile, Claim
from pipeline.storage.errors import CacheFullError, ChangedFileError, StoreError, StoreGoneError
from pipeline.storage.stores import read_from, told_of

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class StoredFile:
    """A file as it must be.

    Attributes:
        sha256: of its bytes; None where nobody says.
        misfit: looks at the fetched file at a path; returns what is wrong with it, in words, or nothing.
    """

    address: Address
    content: CachedFile
    sha256: str | None
    misfit: Callable[[Path], str]


class StoppedError(StoreError):
    """Who waits for a file wants it no more."""


def fetch(
    file: StoredFile,
    cache: Cache,
    claim: Claim,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> int:
    """One attempt at what was claimed; if it fails, the claim is given up, and what was fetched stays for the next.

    on_bytes: told how many bytes have come from the store.

    Returns:
        A descriptor of the whole file, as ``Cache.open`` has it.

    Raises:
        StoreGoneError: the store did not answer, or broke off.
        ChangedFileError: the store's file is another than the index says.
        StoreError: anything else that is wrong with the store or the disk.
    """
    size, resumed = file.content.size_bytes, claim.done > 0
    try:
        if claim.done > size:
            os.ftruncate(claim.descriptor, 0)
        _read_rest(file, claim, is_stopped, on_bytes)
        if reason := _wrong(file, claim):
            if not resumed:
                raise ChangedFileError(f"{file.address}: {reason}")
            # What was left by an earlier attempt may be damaged: all of it once more.
            os.ftruncate(claim.descriptor, 0)
            _read_rest(file, claim, is_stopped, on_bytes)
            if reason := _wrong(file, claim):
                raise ChangedFileError(f"{file.address}: {reason}")
        return cache.finish(file.content, claim)
    except ChangedFileError:
        cache.discard(claim)
        raise
    except BaseException:
        claim.give_up()
        raise


def _read_rest(
    file: StoredFile, claim: Claim, is_stopped: Callable[[], bool], on_bytes: Callable[[int], object]
) -> None:
    """Read from where the claimed file ends to its end."""
    size = file.content.size_bytes

    def write(offset: int, piece: bytes) -> None:
        if is_stopped():
            raise StoppedError(f"{file.address}: no longer wanted")
        on_bytes(len(piece))
        if offset == 0:  # also where a server begins anew that knows no ranges
            os.ftruncate(claim.descriptor, 0)
        if offset + len(piece) > size:
            raise ChangedFileError(f"{file.address}: has more bytes than the {size} that the index says")
        _write_all(claim, offset, piece)

    read_from(file.address, claim.done, size, write)
    if claim.done == size:
        return
    there = told_of(file.address).get("size")
    if there is not None and there != size:
        raise ChangedFileError(f"{file.address}: has {there} bytes, but {size} by the index")
    raise StoreGoneError(f"{file.address}: the store broke off after {claim.done} of {size} bytes")


def _write_all(claim: Claim, offset: int, piece: bytes) -> None:
    view = memoryview(piece)
    try:
        while view:
            written = os.pwrite(claim.descriptor, view, offset)
            view, offset = view[written:], offset + written
    except OSError as error:
        if error.errno not in _FULL:
            raise StoreError(f"{claim.path}: cannot be written ({error.strerror})") from error
        raise CacheFullError(
            f"{claim.path.parent}: no room is left on this disk; lower data.cache_max_bytes, or name a "
            "data.cache_folder on a larger one"
        ) from error


def _wrong(file: StoredFile, claim: Claim) -> str:
    """What is wrong with a file that was fetched; nothing if all is well."""
    if file.sha256 is not None:
        with open(claim.path, "rb") as whole:
            found = hashlib.file_digest(whole, "sha256").hexdigest()
        if found != file.sha256:
            return "is not the file that was indexed (its SHA-256 is another): it was changed in the store"
    if reason := file.misfit(claim.path):
        return f"is not the file that was indexed ({reason}): it was changed in the store"
    return ""
