"""The shards of a data set in a store, as open files of the host's cache: those that are wanted next come ahead of use.

``RemoteShards`` says which shards there are and where; ``ShardFiles`` has them open for one reader.
"""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.addresses import Address
from pipeline.storage.cache import Cache, CacheSettings, Claim
from pipeline.storage.errors import StoreError, StoreGoneError
from pipeline.storage.fetching import StoppedError, StoredFile, fetch
from pipeline.storage.patience import Patience
from pipeline.storage.small_files import BesideFiles

_NUM_FETCHERS = 4  # connections of a reader: one by itself does not fill a fast line
_LOOK_AGAIN_S = 0.02  # whether another process has fetched a file
_RETRY_S = 2.0  # of what is fetched ahead


class Traffic:
    """What one process has had from a store. Threads may add to it at a time."""

    def __init__(self) -> None:
        self.num_bytes, self.num_files, self.wait_s = 0, 0, 0.0
        self._lock = threading.Lock()

    def add(self, *, num_bytes: int = 0, num_files: int = 0, wait_s: float = 0.0) -> None:
        with self._lock:
            self.num_bytes += num_bytes
            self.num_files += num_files
            self.wait_s += wait_s


@dataclass(frozen=True, eq=False)
class RemoteShards:
    """Where the shards of an index lie, in its order.

    Attributes:
        address: of their folder.
        companions: for each shard, names of small files that belong to it, fetched before it if they are there.
        traffic: of this process, over all that read these shards.
    """

    address: Address
    files: tuple[StoredFile, ...]
    companions: tuple[tuple[str, ...], ...]
    settings: CacheSettings
    beside: BesideFiles
    traffic: Traffic = field(default_factory=Traffic)

    @cached_property
    def cache(self) -> Cache:
        """Of this host, for all shards that are fetched here."""
        return Cache(self.settings.folder / "shards", self.settings.max_bytes)

    def path(self, number: int) -> Path:
        """Where a shard lies in the cache, once it is there."""
        return self.cache.path(self.files[number].content)

    @property
    def sizes(self) -> list[int]:
        """Bytes of each shard."""
        return [file.content.size_bytes for file in self.files]

    def open(self) -> "ShardFiles":
        return ShardFiles(self)


class ShardFiles:
    """Shards that one reader has open; while they are, they stay in the cache.

    ``want`` and ``descriptor`` are called by one thread. Threads of its own fetch what is wanted.
    """

    def __init__(self, remote: RemoteShards) -> None:
        self._remote = remote
        self._own = frozenset(file.content.name for file in remote.files)
        self._held: dict[int, int] = {}
        self._wanted: list[int] = []
        self._busy: set[int] = set()
        self._later: dict[int, float] = {}
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def remote(self) -> RemoteShards:
        return self._remote

    def want(self, numbers: Sequence[int]) -> None:
        """Say which shards are needed from now on, the next first. Those that are open and not among them are closed.

        As many are fetched as the cache has room for; the others once there is.
        """
        with self._changed:
            self._wanted = list(dict.fromkeys(numbers))
            keep = set(self._wanted)
            for number in [one for one in self._held if one not in keep]:
                os.close(self._held.pop(number))
            self._changed.notify_all()
        while len(self._threads) < min(_NUM_FETCHERS, len(self._wanted)):
            thread = threading.Thread(target=self._fetch_ahead, name="shard-fetcher", daemon=True)
            self._threads.append(thread)
            thread.start()

    def descriptor(self, number: int) -> int:
        """A shard as an open file, its own until ``want`` leaves it out. Waits until it is there.

        Raises:
            StoreGoneError: the store gave nothing for ``data.remote_patience_s``.
            StoreError: the shard cannot be had.
        """
        with self._changed:
            if number in self._held:
                return self._held[number]
        start_s = time.perf_counter()
        try:
            descriptor = self._wait_for(number)
        finally:
            self._remote.traffic.add(wait_s=time.perf_counter() - start_s)
        return self._hold(number, descriptor)

    def _wait_for(self, number: int) -> int:
        """A shard that is needed now: fetched here, unless another does it."""
        cache, file = self._remote.cache, self._remote.files[number]
        patience, problem = Patience(self._remote.settings.patience_s), None
        while not self._stopped.is_set():
            if (descriptor := cache.open(file.content)) is not None:
                return descriptor
            claim = cache.claim(file.content, self._own, needed=True)
            if claim is None:
                pause_s = _LOOK_AGAIN_S
            else:
                try:
                    return self._fetch(number, claim)
                except StoreGoneError as error:
                    problem, pause_s = error, None
            patience.progress(cache.size_of_part(file.content))
            if patience.is_over:
                raise StoreGoneError(
                    f"{problem or f'{file.address}: another process of this host fetches it, and does not get on'}; "
                    f"nothing came for {patience.waited_s:.0f} s (data.remote_patience_s)"
                )
            self._stopped.wait(patience.next_pause_s() if pause_s is None else pause_s)
        raise StoppedError(f"{file.address}: no longer wanted")

    def _fetch(self, number: int, claim: Claim) -> int:
        remote = self._remote
        try:
            remote.beside.fetch_if_there(remote.companions[number])
        except StoreError:
            claim.give_up()
            raise
        descriptor = fetch(
            remote.files[number],
            remote.cache,
            claim,
            is_stopped=self._stopped.is_set,
            on_bytes=lambda count: remote.traffic.add(num_bytes=count),
        )
        remote.traffic.add(num_files=1)
        return descriptor

    def _hold(self, number: int, descriptor: int) -> int:
        """Keep a descriptor. Returns the one that is kept, which may be another of the same shard."""
        with self._changed:
            if self._held.setdefault(number, descriptor) != descriptor:
                os.close(descriptor)
            self._changed.notify_all()
            return self._held[number]

    # The fetchers' threads.

    def _fetch_ahead(self) -> None:
        while not self._stopped.is_set():
            number = self._take()
            if number is None:
                continue
            again_s = _RETRY_S
            try:
                again_s = self._try_ahead(number)
            except StoreError:
                pass  # whoever needs the shard tries again, and says what is wrong
            finally:
                with self._changed:
                    self._busy.discard(number)
                    self._later[number] = time.monotonic() + again_s

    def _take(self) -> int | None:
        """The first shard that is wanted and that nobody here has or fetches; waits for a moment if there is none."""
        with self._changed:
            now_s = time.monotonic()
            for number in self._wanted:
                if number in self._held or number in self._busy or self._later.get(number, 0.0) > now_s:
                    continue
                self._busy.add(number)
                return number
            self._changed.wait(timeout=0.1)
        return None

    def _try_ahead(self, number: int) -> float:
        """One attempt to have a shard. Returns after how many seconds the next makes sense."""
        cache, file = self._remote.cache, self._remote.files[number]
        descriptor = cache.open(file.content)
        if descriptor is None:
            claim = cache.claim(file.content, self._own, needed=False)
            if claim is None:
                return 0.2
            descriptor = self._fetch(number, claim)
        with self._changed:
            is_wanted = number in self._wanted and not self._stopped.is_set()
            if not is_wanted:
                os.close(descriptor)
                return 0.0
        self._hold(number, descriptor)
        return 0.0

    def stop(self) -> None:
        """Have whoever waits for a shard give up. Any thread may call it."""
        self._stopped.set()

    def close(self) -> None:
        """Close the shards and let the threads end; what they fetch meanwhile stays for the next."""
        self.stop()
        with self._changed:
            self._changed.notify_all()
            while self._held:
                os.close(self._held.popitem()[1])
