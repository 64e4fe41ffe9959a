"""Shards of converted images, through the webdataset library."""

import contextlib
from pathlib import Path

import webdataset

from tools.shards.whole_file import WholeFile

_TAR_BLOCK_BYTES = 512


class ShardWriter:
    """One shard, under a temporary name until it is whole. The tar holds no time and no owner."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.num_samples = 0
        self.num_bytes = 0
        self._file = WholeFile(folder / name)
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
        return self._file.finish()

    def abandon(self) -> None:
        """Removes the unfinished shard."""
        with contextlib.suppress(OSError):  # a full disk refuses what is still in the buffers
            self._tar.close()
        self._file.abandon()
