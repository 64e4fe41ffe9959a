"""Files that are there whole or not at all: written under another name, then renamed."""

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview | str, *, sync: bool) -> None:
    """Put a new file in the place of ``path``. Whatever happens meanwhile, readers find the old one or the new one.

    It has the permissions of any new file. Several processes may write to one path: the last one's file stays.

    Args:
        data: a str is written as UTF-8; bytes that ``surrogateescape`` has hidden in it are written as they were.
        sync: force the content and the folder's entry to the disk, so that the file survives a power cut.

    Raises:
        OSError: it could not be written; what was at ``path`` is still there.
    """
    content = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    # Not a fixed name: another process may write to the same path, on another host too.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    file = temporary.open("xb")
    try:
        with file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def user_path(text: str | Path) -> Path:
    """A path as people write it, in which ``~`` is their home folder."""
    return Path(os.path.expanduser(text))


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
