"""The shards of a data set in a store, as open files of the host's cache: those that are wanted next come ahead of use.

``RemoteShards`` says which shards there are and where; ``ShardFiles`` has them open for one reader.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from pipeline.addresses import Address
from pipeline.storage.cache import Cache, CacheSettings, Claim, Unclaimed
from pipeline.storage.errors import StoreError, StoreGoneError
from pipeline.storage.fetching import StoppedError, StoredFile, fetch
from pipeline.storage.patience import Patience
from pipeline.storage.small_files import BesideFiles

MOST_OPEN = 512  # shards of a reader; twice as many as one call reads, so that none is closed while it is read
_NUM_FETCHERS = 4  # connections of a reader: one by itself does not fill a fast line
_LOOK_AGAIN_S = 0.02  # whether another process has fetched a file
_IDLE_S = 0.1  # until a fetcher looks again for what is wanted, and for room
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
        files: None for a shard that lies on a disk, where the index is mixed of several folders.
        companions: for each shard, names of small files that belong to it, fetched before it if they are there.
        besides: for each shard, the small files of its folder; None as for ``files``.
        traffic: of this process, over all that read these shards.
    """

    files: tuple[StoredFile | None, ...]
    companions: tuple[tuple[str, ...], ...]
    besides: tuple[BesideFiles | None, ...]
    settings: CacheSettings
    traffic: Traffic = field(default_factory=Traffic)

    @cached_property
    def cache(self) -> Cache:
        """Of this host, for all shards that are fetched here."""
        return Cache(self.settings.folder / "shards", self.settings.max_bytes)

    @property
    def beside(self) -> BesideFiles:
        """The small files of the folder, where all shards are of one."""
        (found,) = set(self.besides)
        assert found is not None
        return found

    @property
    def address(self) -> Address:
        """Of the folder, where all shards are of one."""
        return self.beside.address

    def holds(self, number: int) -> bool:
        """Whether a shard is one of a store's."""
        return self.files[number] is not None

    def file(self, number: int) -> StoredFile:
        found = self.files[number]
        assert found is not None, number
        return found

    def path(self, number: int) -> Path:
        """Where a shard lies in the cache, once it is there."""
        return self.cache.path(self.file(number).content)

    @property
    def sizes(self) -> list[int]:
        """Bytes of each shard, 0 of those that are not in a store."""
        return [0 if file is None else file.content.size_bytes for file in self.files]

    def open(self) -> "ShardFiles":
        return ShardFiles(self)


def joined_shards(parts: Sequence[tuple["RemoteShards | None", int]]) -> RemoteShards | None:
    """Shards of several folders, one behind the other; None where none of them is in a store.

    Args:
        parts: of each folder, and how many shards it has; None for one on a disk.
    """
    remotes = [remote for remote, _ in parts if remote is not None]
    if not remotes:
        return None
    each = [
        ((None,) * count, ((),) * count, (None,) * count)
        if remote is None
        else (remote.files, remote.companions, remote.besides)
        for remote, count in parts
    ]
    files, companions, besides = (tuple(chain.from_iterable(one)) for one in zip(*each, strict=True))
    return RemoteShards(files, companions, besides, remotes[0].settings)


class ShardFiles:
    """Shards that one reader has open; while they are, they stay in the cache.

    ``want`` and ``descriptor`` are called by one thread. Threads of its own fetch what is wanted.
    """

    def __init__(self, remote: RemoteShards) -> None:
        self._remote = remote
        self._own = frozenset(file.content.name for file in remote.files if file is not None)
        self._held: OrderedDict[int, int] = OrderedDict()  # the one used last at the end
        self._wanted: list[int] = []
        self._busy: set[int | None] = set()
        self._later: dict[int, float] = {}
        self._changed = threading.Lock()  # of what stands above
        self._stopped = threading.Event()
        self._taking = threading.Lock()  # one at a time, so that the next shard gets what room there is
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
                self._held.move_to_end(number)
                return self._held[number]
        start_s = time.perf_counter()
        try:
            descriptor = self._wait_for(number)
        finally:
            self._remote.traffic.add(wait_s=time.perf_counter() - start_s)
        return self._hold(number, descriptor)

    def _wait_for(self, number: int) -> int:
        """A shard that is needed now: fetched here, unless another does it."""
        cache, file = self._remote.cache, self._remote.file(number)
        patience = Patience(self._remote.settings.patience_s)
        problem: StoreGoneError | None = None
        pause_s: float | None
        while not self._stopped.is_set():
            if (descriptor := cache.open(file.content)) is not None:
                return descriptor
            claim = cache.claim(file.content, self._own, needed=True)
            pause_s = _LOOK_AGAIN_S
            if isinstance(claim, Claim):
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
            if (beside := remote.besides[number]) is not None:
                beside.fetch_if_there(remote.companions[number])
        except StoreError:
            claim.give_up()
            raise
        descriptor = fetch(
            remote.file(number),
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
            self._held.move_to_end(number)
            if len(self._held) > MOST_OPEN:
                os.close(self._held.popitem(last=False)[1])
            return self._held[number]

    # The fetchers' threads.

    def _fetch_ahead(self) -> None:
        while not self._stopped.is_set():
            number = None
            try:
                if (taken := self._take()) is None:
                    self._stopped.wait(_IDLE_S)
                    continue
                number, claim = taken
                self._hold_if_wanted(number, self._fetch(number, claim))
            except (StoreError, OSError):  # whoever needs the shard tries again, and says what is wrong
                self._pass_over(number)
            finally:
                with self._changed:
                    self._busy -= {number}

    def _pass_over(self, number: int | None) -> None:
        """Let a while go by before a shard is tried again, or anything where not even that is known."""
        if number is None:
            self._stopped.wait(_RETRY_S)
            return
        with self._changed:
            self._later[number] = time.monotonic() + _RETRY_S

    def _take(self) -> tuple[int, Claim] | None:
        """The first shard that is wanted and that nobody has or fetches, claimed; None if there is none.

        What is in the cache already is opened on the way. Where one has no room, no later one may take it.
        """
        cache = self._remote.cache
        with self._taking:
            for number in self._missing():
                file = self._remote.file(number)
                if (descriptor := cache.open(file.content)) is not None:
                    self._hold_if_wanted(number, descriptor)
                    continue
                claim = cache.claim(file.content, self._own, needed=False)
                if isinstance(claim, Claim):
                    with self._changed:
                        self._busy.add(number)
                    return number, claim
                if claim is Unclaimed.NO_ROOM:
                    return None
        return None

    def _missing(self) -> list[int]:
        """Shards that are wanted and neither open nor being fetched here, the next first."""
        with self._changed:
            now_s = time.monotonic()
            passed_over = {number for number, until_s in self._later.items() if until_s > now_s}
            return [one for one in self._wanted if one not in self._held and one not in self._busy | passed_over]

    def _hold_if_wanted(self, number: int, descriptor: int) -> None:
        with self._changed:
            if number not in self._wanted or self._stopped.is_set():
                os.close(descriptor)
                return
        self._hold(number, descriptor)

    def stop(self) -> None:
        """Have whoever waits for a shard give up. Any thread may call it."""
        self._stopped.set()

    def close(self) -> None:
        """Close the shards and let the threads end; what they fetch meanwhile stays for the next."""
        self.stop()
        with self._changed:
            while self._held:
                os.close(self._held.popitem()[1])
