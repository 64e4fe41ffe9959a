"""A folder that changes in one step: the changed one is made beside it, of links to what stays, and takes its place."""

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.files import sync_folder

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def held(folder: Path, index: Path) -> Iterator[None]:
    """Keeps other calls away from a folder, by a lock on one of its indexes, and clears what a killed one has left.

    Raises:
        ValueError: another call is at work.
    """
    with open(index, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: shards are being appended to it by another call; wait for it") from None
        for left in (_beside(folder), _before(folder)):
            if left.exists():
                shutil.rmtree(left)
        yield


def bring_back(folder: Path) -> None:
    """Where a call was killed between two renames, give the folder that it was to replace its name again."""
    if not folder.exists() and _before(folder).is_dir():
        _before(folder).rename(folder)


@contextmanager
def changed(folder: Path) -> Iterator[Path]:
    """Gives a folder with links to all files of ``folder``; at the end it takes its place, and after an error nothing.

    Inside, files are replaced and never written to: they are those of ``folder``. It is to be ``held``, and no link.

    Raises:
        ValueError: the folder is where a file system is mounted, so that none can take its place.
        OSError: links cannot be made beside it, or the disk refuses.
    """
    if folder.stat().st_dev != folder.parent.stat().st_dev:
        raise ValueError(
            f"{folder} is where a file system is mounted, so no other folder can take its place; keep the shards in a "
            "folder inside of it"
        )
    beside = _beside(folder)
    try:
        shutil.copytree(folder, beside, symlinks=True, copy_function=_link)
        yield beside
        for inner, _, _ in os.walk(beside):
            sync_folder(Path(inner))
        _exchange(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    shutil.rmtree(beside)  # with the files that were replaced


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def _exchange(first: Path, second: Path) -> None:
    """Two folders change names in one step; where a file system has no such step, in three."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = [_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second)]
    if libc.renameat2(*names, _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code not in _CANNOT_EXCHANGE:
            raise OSError(code, os.strerror(code), str(second))
        second.rename(_before(second))
        first.rename(second)
        _before(second).rename(first)
    sync_folder(second.parent)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.append")


def _before(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.before-append")
