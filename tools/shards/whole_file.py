"""Files that are either whole or absent: a temporary name, fsync, then rename."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from pipeline.files import sync_folder


class WholeFile:
    """One file, written from its beginning to its end under a temporary name, and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Not a fixed name: a worker of a call that was killed may not have ended yet when the next call writes.
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._file = open(self._temporary, "wb")  # noqa: SIM115 (closed by finish or abandon)
        self._sha = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._sha.update(data)
        return self._file.write(data)

    def finish(self) -> tuple[int, str]:
        """Size in bytes and SHA-256 of the file, which is on the disk under its own name when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)
        return self.path.stat().st_size, self._sha.hexdigest()

    def abandon(self) -> None:
        """Remove what is unfinished."""
        with contextlib.suppress(OSError):  # a full disk refuses what is still in the buffers
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left half-written. Nobody else may be writing there."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
