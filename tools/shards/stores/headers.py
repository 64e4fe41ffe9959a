"""The part of a tar in a store that an index is made of, as a sparse file: headers, labels, the heads of images."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from pipeline.addresses import Address
from pipeline.shards.tars import IMAGE_EXTENSIONS, Members, scan_shard
from pipeline.storage.stores import read_range, told_of

_BLOCK = 512
_ASKED_BYTES = 32 * 1024  # at a time: a header, and as much of an image as usually tells its size
_HEAD_BYTES = 16 * 1024  # of an image
_MOST_PLAIN_BYTES = 1 << 20  # of what is no image, which may be a label or a long name


def fetch_headers(address: Address, path: Path, members: Members) -> int:
    """Write the file at ``path``: as long as the tar, and the same in all that ``scan_shard`` reads of it.

    Where that finds a fault in it, which may lie in what was left out, the whole tar is fetched.

    Returns:
        Bytes that were asked of the store.

    Raises:
        StoreError: the store cannot be read.
    """
    size = int(told_of(address)["size"])
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)
    asked = 0

    def need(start: int, stop: int) -> bytes:
        nonlocal asked
        block = read_range(address, start, min(stop, size))
        asked += len(block)
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), block, start)
        return block

    _walk(size, need)
    if scan_shard(path, *members).faults:
        step = 16 << 20
        for start in range(0, size, step):
            need(start, start + step)
    return asked


def _walk(size: int, need: Callable[[int, int], bytes]) -> None:
    """Ask for the tar's headers and what stands behind them, from member to member."""
    at, block_at, block = 0, 0, b""

    def held(start: int, stop: int) -> bool:
        return block_at <= start and stop <= block_at + len(block)

    while at + _BLOCK <= size:
        if not held(at, at + _BLOCK):
            block_at, block = at, need(at, at + _ASKED_BYTES)
        try:
            header = tarfile.TarInfo.frombuf(
                block[at - block_at : at - block_at + _BLOCK], tarfile.ENCODING, "surrogateescape"
            )
        except tarfile.HeaderError:
            break  # the end, or damage, which whoever scans the file tells apart
        is_image = header.name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS
        wanted = min(header.size, _HEAD_BYTES if is_image else _MOST_PLAIN_BYTES)
        if not held(at + _BLOCK, at + _BLOCK + wanted):
            need(at + _BLOCK, at + _BLOCK + wanted)
        at += _BLOCK + -(-header.size // _BLOCK) * _BLOCK
    need(at, size)
