"""What a store is asked: bytes of a file, its size, the names in a folder; and what it is given.

One connection a kind of store and process, by fsspec. Its packages are an optional group of this project's.
"""

import importlib.util
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.addresses import Address
from pipeline.storage.errors import BeyondTheEndError, StoreError, understood

_BLOCK_BYTES = 16 << 20  # asked for at a time where a store is read by ranges
_PIECE_BYTES = 1 << 20  # taken from a connection at a time
_CONNECT_S, _SILENCE_S = 10, 30
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}

Write = Callable[[int, bytes], None]


@lru_cache(maxsize=len(_PACKAGES))
def _file_system(scheme: str) -> Any:
    if importlib.util.find_spec("fsspec") is None or importlib.util.find_spec(_PACKAGES[scheme]) is None:
        raise StoreError(
            f"{scheme}:// needs the package {_PACKAGES[scheme]}, which is not installed; install it with "
            "pip install '.[storage]'"
        )
    import fsspec

    store = fsspec.filesystem(
        "http" if scheme == "https" else scheme, use_listings_cache=False, skip_instance_cache=True, **_options(scheme)
    )
    if scheme == "s3":
        store.retries = 1  # whoever asks has a patience of its own, and says when it is over
    return store


def forget_stores() -> None:
    """Speak with stores by what the environment says now, which is looked at once otherwise."""
    _file_system.cache_clear()


def _options(scheme: str) -> dict[str, Any]:
    if scheme == "s3":
        timeouts = {"connect_timeout": _CONNECT_S, "read_timeout": _SILENCE_S}
        return {"config_kwargs": {**timeouts, "retries": {"max_attempts": 1}}}
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        # Environments name proxies, and a .netrc file holds passwords.
        return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    return {}


def read_from(address: Address, start: int, size: int, write: Write) -> None:
    """Read the bytes ``start`` to ``size - 1`` of a file, in order: ``write(offset, bytes)`` gets each piece.

    A server that knows no ranges is read from its first byte on, and so are the offsets. The file may end before.

    Raises:
        StoreError: what went wrong. What ``write`` raises comes through as it is.
    """
    if start < size:
        with suppress(BeyondTheEndError):
            _READERS[address.scheme](address, start, size, write)


def _read_blocks(address: Address, start: int, size: int, write: Write) -> None:
    while start < size:
        block = read_range(address, start, min(start + _BLOCK_BYTES, size))
        if not block:
            return
        write(start, block)
        start += len(block)


def _read_stream(address: Address, start: int, size: int, write: Write) -> None:
    from fsspec.asyn import sync

    store, problem = _file_system(address.scheme), list[BaseException]()

    async def stream() -> None:
        session = await store.set_session()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-{size - 1}"} if start else {})
        async with session.get(store.encode_url(address.text), headers=headers) as answer:
            answer.raise_for_status()
            at = start if answer.status == 206 else 0
            async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                try:
                    write(at, piece)
                except BaseException as error:
                    problem.append(error)
                    return
                at += len(piece)

    try:
        sync(store.loop, stream)
    except Exception as error:
        raise understood(error, address) from error
    if problem:
        raise problem[0]


_READERS = {"s3": _read_blocks, "gs": _read_blocks, "http": _read_stream, "https": _read_stream}


def read_range(address: Address, start: int, stop: int) -> bytes:
    """The bytes ``start`` to ``stop - 1``, fewer where the file ends before. Raises StoreError.

    Of a server that knows no ranges, the whole file is read for them.
    """
    if start >= stop:
        return b""
    try:
        found = _file_system(address.scheme).cat_file(address.text, start=start, end=stop)
    except Exception as error:
        raise understood(error, address) from error
    return found[start:stop] if len(found) > stop - start else found


def read_all(address: Address) -> bytes:
    """All of a small file. Raises StoreError."""
    try:
        return _file_system(address.scheme).cat_file(address.text)
    except Exception as error:
        raise understood(error, address) from error


def told_of(address: Address) -> dict[str, Any]:
    """What a store tells of a file without sending it, such as ``size``. Raises StoreError."""
    try:
        return _file_system(address.scheme).info(address.text)
    except Exception as error:
        raise understood(error, address) from error


def list_names(address: Address) -> list[str]:
    """The names of the files directly in a folder, ascending. Raises StoreError; web servers list nothing."""
    if address.scheme in ("http", "https"):
        raise StoreError(f"{address}: a web server does not list its files")
    try:
        found = _file_system(address.scheme).ls(address.text, detail=True, refresh=True)
    except FileNotFoundError as error:
        if address.bucket == address.text.partition("://")[2] or not _is_empty_folder(address):
            raise understood(error, address) from error
        return []
    except Exception as error:
        raise understood(error, address) from error
    folder = f"{address.text.partition('://')[2]}/"
    names = [str(one["name"]) for one in found if one["type"] == "file"]
    return sorted(name.removeprefix(folder) for name in names if name.startswith(folder) and name != folder)


def _is_empty_folder(address: Address) -> bool:
    """Whether the bucket is there, and has nothing below the address."""
    bucket = Address(f"{address.scheme}://{address.bucket}")
    try:
        _file_system(address.scheme).ls(bucket.text, refresh=True)
    except FileNotFoundError as error:
        raise understood(error.__cause__ or error, bucket) from error
    except Exception as error:
        raise understood(error, bucket) from error
    return True


def upload(path: Path, address: Address) -> None:
    """Write a file into a store, in parts where it is large; it is there whole or not at all. Raises StoreError."""
    if address.scheme in ("http", "https"):
        raise StoreError(f"{address}: nothing is written to a web server; name a bucket, or a folder")
    try:
        _file_system(address.scheme).put_file(str(path), address.text)
    except OSError as error:
        if error.filename == str(path):
            raise
        raise understood(error, address) from error
    except Exception as error:
        raise understood(error, address) from error
