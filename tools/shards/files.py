"""Shards that are either whole or absent: a temporary name, fsync, then rename."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import IO

import webdataset

from pipeline.files import sync_folder

_TAR_BLOCK_BYTES = 512


class ShardWriter:
    """One shard, under a temporary name until it is whole. The tar holds no time and no owner."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.num_samples = 0
        self.num_bytes = 0
        self._path = folder / name
        self._temporary = folder / f".{name}.tmp"
        self._file = _HashingFile(open(self._temporary, "wb"))  # noqa: SIM115 (closed by finish or abandon)
        self._tar = webdataset.TarWriter(self._file, encoder=False, mtime=0, user="", group="", mode=0o444)

    def add(self, key: str, sample: tuple[bytes, str, int]) -> None:
        data, extension, label = sample
        members = {extension: data, "cls": str(label).encode()}
        self._tar.write({"__key__": key, **members})
        self.num_samples += 1
        # A header and whole blocks for each member.
        self.num_bytes += sum(
            _TAR_BLOCK_BYTES * (1 + -(-len(member) // _TAR_BLOCK_BYTES)) for member in members.values()
        )

    def finish(self) -> tuple[int, str]:
        """Size in bytes and SHA-256 of the shard, which is on the disk when this returns."""
        self._tar.close()
        file = self._file.file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(self._temporary, self._path)
        sync_folder(self._path.parent)
        return self._path.stat().st_size, self._file.sha.hexdigest()

    def abandon(self) -> None:
        """Removes the unfinished shard."""
        for stream in (self._tar, self._file.file):
            with contextlib.suppress(OSError):  # a full disk refuses what is still in the buffers
                stream.close()
        self._temporary.unlink(missing_ok=True)


class _HashingFile:
    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return self.file.write(data)
