"""A cache of files on a host's disk, for all processes of the host: each file is fetched once, by one of them.

Files are named by their content, so that runs over the same shards share them. Who fetches a file holds a lock on it
(``flock``), who reads one shares another: a process that is killed loses both, so nothing has to be cleared up. What it
had fetched is gone on with. Every name in the folder is made, changed and removed under the folder's own lock.
"""

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from pipeline.told import tell_once

# Of every file in the cache, so that one that is written to later can be told from one that was not.
CACHED_MTIME_NS = 10**18
_PART = ".part"


class CacheSettings(NamedTuple):
    """Where a host keeps what it fetches from stores, and how long it waits for them.

    folder: on a disk of the host. max_bytes: of shards in it; None: as many as the disk holds. patience_s: for a store
    that does not answer.
    """

    folder: Path
    max_bytes: int | None = None
    patience_s: float = 600.0


class CachedFile(NamedTuple):
    """A file by its content. identity: of the content, in letters and digits."""

    identity: str
    size_bytes: int

    @property
    def name(self) -> str:
        return f"{self.identity}-{self.size_bytes}"


class Unclaimed(Enum):
    """Why a file is not to be fetched now: it is there, another fetches it, or there is no room for it."""

    IS_THERE = "is there"
    IS_TAKEN = "is taken"
    NO_ROOM = "no room"


@dataclass(frozen=True)
class Claim:
    """A file that this process alone fetches. ``descriptor``: what it has so far, open for reading and writing."""

    descriptor: int
    path: Path

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return os.fstat(self.descriptor).st_size

    def give_up(self) -> None:
        """Leave the file to others, who go on with it."""
        os.close(self.descriptor)


class Cache:
    """The files of one folder. Any number of processes and threads may use it at a time.

    max_bytes: of all files, those included that are being fetched; None: no limit.
    """

    def __init__(self, folder: Path, max_bytes: int | None) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, file: CachedFile) -> Path:
        return self.folder / file.name

    def open(self, file: CachedFile) -> int | None:
        """A descriptor of a whole file, which stays in the cache while that is open; None where it is not there."""
        try:
            descriptor = os.open(self.path(file), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        status = os.fstat(descriptor)
        if status.st_nlink == 0 or not _is_sound(status, file):  # removed meanwhile, or written to by someone
            os.close(descriptor)
            return None
        with suppress(OSError):  # when it was used last; a folder of someone else's does not allow it
            os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
        return descriptor

    def claim(self, file: CachedFile, own: Collection[str], *, needed: bool) -> Claim | Unclaimed:
        """The right to fetch a file, or why there is none.

        own: names of the files of the same data set. needed: it is fetched even if all the others must stay.
        """
        with self._locked():
            if self._is_whole(file):
                return Unclaimed.IS_THERE
            path = self.folder / f"{file.name}{_PART}"
            is_new = not path.exists()
            if is_new and not self._has_room(file.size_bytes, own) and not needed:
                return Unclaimed.NO_ROOM
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if not _lock(descriptor):
                os.close(descriptor)
                return Unclaimed.IS_TAKEN
            return Claim(descriptor, path)

    def finish(self, file: CachedFile, claim: Claim) -> int:
        """Make a whole file of what was claimed. Returns a descriptor as ``open`` does."""
        os.utime(claim.descriptor, ns=(time.time_ns(), CACHED_MTIME_NS))
        with self._locked():
            claim.path.replace(self.path(file))
            # To change a lock may let go of it for a moment; nobody removes a file without the folder's.
            fcntl.flock(claim.descriptor, fcntl.LOCK_SH)
        return claim.descriptor

    def discard(self, claim: Claim) -> None:
        """Remove what was claimed."""
        with self._locked():
            claim.path.unlink(missing_ok=True)
        os.close(claim.descriptor)

    def remove(self, file: CachedFile) -> None:
        """Remove a file, be it used or not: it is not what it should be."""
        with self._locked():
            self.path(file).unlink(missing_ok=True)

    def size_of_part(self, file: CachedFile) -> int:
        """Bytes of a file that some process has fetched so far; 0 where none does."""
        try:
            return (self.folder / f"{file.name}{_PART}").stat().st_size
        except FileNotFoundError:
            return 0

    def num_bytes(self) -> int:
        """Bytes of all files, and of those being fetched once they are whole."""
        return sum(_bytes_of(path) for path in self._files())

    def _is_whole(self, file: CachedFile) -> bool:
        path = self.path(file)
        if not path.exists():
            return False
        if _is_sound(path.stat(), file):
            return True
        path.unlink()
        return False

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if not path.name.startswith(".")]

    def _has_room(self, num_bytes: int, own: Collection[str]) -> bool:
        """Whether there is room for so many bytes more, once files that nobody uses were removed for it."""
        if self.max_bytes is None:
            return True
        excess = self.num_bytes() + num_bytes - self.max_bytes
        for path in self._candidates(own) if excess > 0 else ():
            if excess <= 0:
                break
            if _remove_unused(path):
                excess -= _bytes_of(path)
        if excess > 0 and num_bytes > self.max_bytes:
            tell_once(f"{self.folder}: a file of {num_bytes} bytes is larger than data.cache_max_bytes")
        return excess <= 0

    def _candidates(self, own: Collection[str]) -> list[Path]:
        """What is removed first: other data sets' files, those longest unused first; then those used last.

        Every epoch comes by every shard, so the one just used is the one that is needed last.
        """
        used = {path: path.stat().st_atime_ns for path in self._files()}
        others = sorted((path for path in used if path.name.removesuffix(_PART) not in own), key=used.__getitem__)
        mine = sorted(set(used) - set(others), key=used.__getitem__, reverse=True)
        return [*others, *mine]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _is_sound(status: os.stat_result, file: CachedFile) -> bool:
    """Whether a file is as it was put into the cache, by its size and time."""
    return status.st_size == file.size_bytes and status.st_mtime_ns == CACHED_MTIME_NS


def _lock(descriptor: int) -> bool:
    """Whether nobody else holds a file, which from now on this process does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not _lock(descriptor):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def _bytes_of(path: Path) -> int:
    """By the name, in which a file that is being fetched has all of its bytes."""
    size = path.name.removesuffix(_PART).rpartition("-")[2]
    return int(size) if size.isdecimal() else path.stat().st_size
