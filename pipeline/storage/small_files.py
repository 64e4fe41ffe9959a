"""The small files beside the shards of a store, index and ``dataset.json``, as a folder of the host's disk."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.addresses import Address
from pipeline.files import write_atomically
from pipeline.storage.cache import CacheSettings
from pipeline.storage.errors import NoBucketError, NotInStoreError, StoreError, StoreGoneError, StoreRefusedError
from pipeline.storage.patience import Patience
from pipeline.storage.stores import read_all, told_of
from pipeline.told import tell_once

_SEEN = ".seen.json"
_CONNECTIONS = 8
_MOST_PATIENCE_S = 30.0  # where a person waits for the first word of a run
_VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified", "mtime", "updated", "generation")


class BesideFiles:
    """Copies of a store's small files, in a folder that stands for the store's.

    A file is fetched anew whenever the store tells another version of it, or none at all. For any number of processes.

    """

    def __init__(self, address: Address, settings: CacheSettings) -> None:
        self.address, self.settings = address, settings
        digest = hashlib.sha256(address.text.encode()).hexdigest()[:16]
        self.folder = settings.folder / "sets" / f"{address.text.rpartition('/')[2]}-{digest}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def renew(self, names: Iterable[str]) -> None:
        """Make the copies of these files what the store has now; one that the store does not have is removed.

        Raises:
            StoreError: the store cannot be asked, or lets this user have none of them.
        """
        refusals: list[StoreRefusedError] = []
        with self._locked():
            seen = self._seen()
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                found = list(pool.map(lambda name: self._renew(name, seen, refusals), names))
            write_atomically(self.folder / _SEEN, json.dumps(seen), sync=False)
        if refusals and not any(found):
            raise refusals[0]
        for refusal in refusals:
            # S3 says so of files that are not there, to those who may not list the bucket.
            tell_once(f"{refusal}; taken as if it were not there")

    def check_bucket(self) -> None:
        """Raise NoBucketError if there is no such bucket, of which a store says nothing when asked about a file."""
        try:
            read_all(self.address.join("dataset.json"))
        except NoBucketError:
            raise
        except NotInStoreError:
            return

    def fetch_if_there(self, names: Iterable[str]) -> None:
        """Copy those of the files that this folder has not, where the store has them. One attempt.

        Raises:
            StoreError: the store cannot be asked.
        """
        for name in names:
            if not (self.folder / name).exists():
                with suppress(NotInStoreError, StoreRefusedError):
                    content = read_all(self.address.join(name))
                    write_atomically(self.folder / name, content, sync=False)

    def _renew(self, name: str, seen: dict[str, Any], refusals: list[StoreRefusedError]) -> bool:
        """Whether the store has the file."""
        path = self.folder / name
        try:
            told = self._patiently(told_of, self.address.join(name))
        except (NotInStoreError, StoreRefusedError) as error:
            path.unlink(missing_ok=True)
            seen.pop(name, None)
            refusals += [error] if isinstance(error, StoreRefusedError) else []
            return False
        version = {key: str(told[key]) for key in (*_VERSIONS, "size") if told.get(key) is not None}
        has_version = any(key in version for key in _VERSIONS)
        if has_version and seen.get(name) == version and path.exists():
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        content = self._patiently(read_all, self.address.join(name))
        write_atomically(path, content, sync=False)
        seen[name] = version
        return True

    def _patiently(self, ask: Callable[[Address], Any], address: Address) -> Any:
        patience = Patience(min(self.settings.patience_s, _MOST_PATIENCE_S))
        while True:
            try:
                return ask(address)
            except StoreGoneError:
                if patience.is_over:
                    raise
                time.sleep(patience.next_pause_s())

    def _seen(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / _SEEN).read_text())
        except (OSError, ValueError):
            return {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def beside_files(address: Address, settings: CacheSettings | None) -> BesideFiles:
    """Raises StoreError where no cache is named."""
    if settings is None:
        raise StoreError(
            f"{address} is in a store: name a folder on a disk of this host, for what is fetched from there, with "
            "data.cache_folder, and how much it may hold with data.cache_max_bytes"
        )
    return BesideFiles(address, settings)


def small_files_of(place: Path | Address, settings: CacheSettings | None, name: str = "dataset.json") -> Path:
    """The folder in which a folder's small files are to be read, and that one of them is what the store has now.

    Raises StoreError where the store cannot be asked.
    """
    if isinstance(place, Path):
        return place
    beside = beside_files(place, settings)
    beside.renew([name])
    return beside.folder
