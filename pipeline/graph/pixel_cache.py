"""Decoded images kept from one epoch to the next, in memory or in a file: ``data.cache``.

What is in a cache stays; when it is full, further images are not taken. A sample's pixels depend on its bytes and the
decoder alone, so nothing that comes out of the pipeline depends on what a cache holds.
"""

import fcntl
import json
import os
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.config import CacheConfig
from pipeline.files import write_atomically
from pipeline.shards.index import ShardIndex
from pipeline.told import tell_once

_FORMAT_VERSION = 2
_ABSENT = -1
# Where an image begins in the file of pixels, and the CRC-32 of its pixels.
_PLACE = np.dtype([("offset", "<i8"), ("checksum", "<u4"), ("_", "<u4")])


class PixelCache(Protocol):
    """Whole decoded images by sample id, for one thread; with levels by their rows in ``ShardIndex.files``."""

    def get(self, sample_id: int) -> np.ndarray | None:
        """uint8 [H, W, 3], not to be written to, or None."""

    def put(self, sample_id: int, image: np.ndarray) -> bool:
        """Whether the image, uint8 [H, W, 3], is in the cache now."""

    def close(self) -> None: ...


class MemoryCache:
    """In this process's memory, and gone with it."""

    def __init__(self, max_bytes: int) -> None:
        self._images: dict[int, np.ndarray] = {}
        self._free_bytes = max_bytes

    def get(self, sample_id: int) -> np.ndarray | None:
        return self._images.get(sample_id)

    def put(self, sample_id: int, image: np.ndarray) -> bool:
        if sample_id not in self._images:
            if image.nbytes > self._free_bytes:
                return False
            self._free_bytes -= image.nbytes
            self._images[sample_id] = image.copy()  # images of a batch share memory, which one of them would keep
        return True

    def close(self) -> None:
        self._images.clear()


class DiskCache:
    """In a file of raw pixels, one for each split and rank, which later runs on the same data go on with.

    It is written and read in calls, not mapped: a disk that is full or a file that is shortened is an error then, where
    a mapping would end the process with SIGBUS. ``SPLIT-rank0.pixels`` holds the images one behind the other,
    ``.offsets`` its place and checksum for every sample of the index, ``.json`` what both were made of. A power failure
    may leave offsets without their pixels, so a file that was not closed is taken up again only if the machine has run
    on since. An image whose pixels changed on the disk is decoded again, and a line says so.

    Args:
        decoder: name and version of what decoded the images.

    Raises:
        ValueError: another run has the file open.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, index: ShardIndex, rank: int, max_bytes: int, decoder: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"{index.split}-rank{rank}"
        self._index, self._max_bytes, self._is_full = index.files, max_bytes, False
        self._pixels_path = stem.with_name(f"{stem.name}.pixels")
        self._facts_path = stem.with_name(f"{stem.name}.json")
        self._pixels = os.open(self._pixels_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._offset_file = -1
        try:
            fcntl.flock(self._pixels, fcntl.LOCK_EX | fcntl.LOCK_NB)
            offsets_path = stem.with_name(f"{stem.name}.offsets")
            self._offset_file = os.open(offsets_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._facts = {
                "format_version": _FORMAT_VERSION,
                "fingerprint": index.fingerprint,
                "decoder": decoder,
            }
            self._open()
        except BaseException as error:
            self._close_files()
            if isinstance(error, BlockingIOError):
                raise ValueError(
                    f"{self._pixels_path} is in use by another run; give each run its own data.cache.folder"
                ) from None
            raise

    def _open(self) -> None:
        num_samples = len(self._index.shard)
        stored = os.pread(self._offset_file, _PLACE.itemsize * num_samples, 0)
        if self._is_sound() and len(stored) == _PLACE.itemsize * num_samples:
            self._places = np.frombuffer(stored, dtype=_PLACE).copy()
        else:
            self._places = np.zeros(num_samples, dtype=_PLACE)
            self._places["offset"] = _ABSENT
            os.ftruncate(self._pixels, 0)
        self._end = os.fstat(self._pixels).st_size
        # A file that was shortened must not grow again under offsets that point behind its end.
        offsets = self._places["offset"]
        ends = offsets + 3 * np.asarray(self._index.height, dtype=np.int64) * np.asarray(self._index.width)
        offsets[(offsets < 0) | (ends > self._end)] = _ABSENT
        os.ftruncate(self._offset_file, 0)
        _write_at(self._offset_file, self._places.tobytes(), 0)
        self._write_facts(closed=False)

    def _is_sound(self) -> bool:
        """Whether the file was made of this data by this decoder, and everything written to it is there."""
        try:
            found: dict[str, Any] = json.loads(self._facts_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        is_whole = found.pop("closed", False) is True
        ran_on = found.pop("boot", None) == _boot_id()
        return found == self._facts and (is_whole or ran_on)

    def _write_facts(self, *, closed: bool) -> None:
        facts = {**self._facts, "boot": _boot_id(), "closed": closed}
        write_atomically(self._facts_path, json.dumps(facts) + "\n", sync=False)

    def get(self, sample_id: int) -> np.ndarray | None:
        offset = int(self._places["offset"][sample_id])
        if offset == _ABSENT:
            return None
        image = np.empty((self._index.height[sample_id], self._index.width[sample_id], 3), dtype=np.uint8)
        view, done = image.reshape(-1).data, 0
        while done < image.nbytes and (count := os.preadv(self._pixels, [view[done:]], offset + done)):
            done += count
        if done < image.nbytes:
            self._is_full = True  # the file was shortened by someone; see _open
        elif zlib.crc32(view) == self._places["checksum"][sample_id]:
            return image
        else:
            tell_once(
                f"{self._pixels_path}: some cached images are not as they were written (first {sample_id}); they are "
                "decoded again. Is the disk sound?"
            )
        self._places["offset"][sample_id] = _ABSENT
        return None

    def put(self, sample_id: int, image: np.ndarray) -> bool:
        if self._places["offset"][sample_id] != _ABSENT:
            return True
        if self._is_full or self._end + image.nbytes > self._max_bytes:
            return False
        pixels = np.ascontiguousarray(image).reshape(-1).data
        self._places[sample_id] = (self._end, zlib.crc32(pixels), 0)
        try:
            _write_at(self._pixels, pixels, self._end)
            _write_at(self._offset_file, self._places[sample_id].tobytes(), _PLACE.itemsize * sample_id)
        except OSError:
            self._places["offset"][sample_id] = _ABSENT
            self._is_full = True  # so is the disk, most likely; what is there can still be read
            return False
        self._end += image.nbytes
        return True

    def close(self) -> None:
        """Safe to call twice."""
        if self._pixels < 0:
            return
        try:
            os.fsync(self._pixels)
            os.fsync(self._offset_file)
            self._write_facts(closed=True)
        finally:
            self._close_files()

    def _close_files(self) -> None:
        for descriptor in (self._offset_file, self._pixels):
            if descriptor >= 0:
                os.close(descriptor)
        self._pixels = self._offset_file = -1


def open_cache(config: CacheConfig | None, index: ShardIndex, rank: int, decoder: str) -> PixelCache | None:
    """The cache that the configuration asks for, if any. See ``DiskCache`` for what is raised."""
    if config is None:
        return None
    if config.kind == "memory":
        return MemoryCache(config.max_bytes)
    assert config.folder is not None
    return DiskCache(config.folder, index, rank, config.max_bytes, decoder)


def _write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    view = memoryview(content)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
