"""What goes wrong with stores and with the cache of a host, each done for real, and what came of it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.shell import ROOT, environment, free_port
from benchmarks.shared.stores import Line, nginx_settings, put, s3_at, s3_server, serving
from benchmarks.shared.toy_data import write_toy_shards
from pipeline.addresses import Address
from pipeline.shards.index import open_index
from pipeline.shards.reader import SampleReader
from pipeline.storage.cache import CacheSettings

_READER = """
import hashlib, sys
from pathlib import Path
from benchmarks.stores.faults import read_all_images
print(hashlib.sha256(b"".join(read_all_images(sys.argv[1], Path(sys.argv[2])))).hexdigest())
"""


@dataclass(frozen=True)
class Bench:
    """What the cases work with: shards on a disk, the same in a bucket and on a web server, a line to each.

    Attributes:
        nginx: restarts the web server's process; ``stop`` kills it.
    """

    folder: Path
    shards: Path
    s3: Line
    web: Line
    stop: Callable[[], None]
    start: Callable[[], None]

    def cache(self, name: str) -> Path:
        return self.folder / "caches" / name


def read_all_images(place: str, cache: Path, patience_s: float = 30.0) -> list[bytes]:
    """All training images at an address."""
    index = open_index(Address.parse(place), "train", CacheSettings(cache, None, patience_s))
    with SampleReader(index) as reader:
        return [bytes(image) for image in reader.read(np.arange(len(index.shard)))]


def _same(bench: Bench, found: list[bytes]) -> str:
    with SampleReader(open_index(bench.shards, "train")) as reader:
        expected = [bytes(image) for image in reader.read(np.arange(len(reader._index.shard)))]
    return "read all, as on the disk" if found == expected else "OTHER IMAGES"


def _outcome(bench: Bench, read: Callable[[], list[bytes]]) -> str:
    try:
        return _same(bench, read())
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


def _killed_and_back(bench: Bench) -> str:
    bench.stop()
    threading.Timer(2.0, bench.start).start()
    # The index was read before, so what waits is the fetching of shards.
    return _outcome(bench, lambda: read_all_images(bench.web.url, bench.cache("killed")))


def _refused(answer: int, count: int) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        bench.s3.answer, bench.s3.refusals = answer, count
        found = _outcome(bench, lambda: read_all_images("s3://toys/set", bench.cache(f"answer-{answer}")))
        bench.s3.refusals = 0
        return found

    return run


def _truncated(bench: Bench) -> str:
    bench.web.cut_after = 5_000
    return _outcome(bench, lambda: read_all_images(bench.web.url, bench.cache("truncated")))


def _stays_away(bench: Bench) -> str:
    bench.s3.down_after = 3
    found = _outcome(bench, lambda: read_all_images("s3://toys/set", bench.cache("away"), patience_s=2.0))
    bench.s3.down_after, bench.s3.is_down = None, False
    return found


def _changed(bench: Bench) -> str:
    changed = bench.folder / "changed"
    shutil.copytree(bench.shards, changed)
    content = bytearray((changed / "train-000004.tar").read_bytes())
    content[505] ^= 1
    (changed / "train-000004.tar").write_bytes(content)
    put(changed, Address.parse("s3://toys/changed"))
    return _outcome(bench, lambda: read_all_images("s3://toys/changed", bench.cache("changed")))


def _full(bench: Bench) -> str:
    """A disk of its own, too small for the set."""
    place = bench.cache("full")
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", place], check=True)
    try:
        return _outcome(bench, lambda: read_all_images("s3://toys/set", place))
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def _reader_process(bench: Bench, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _READER, bench.web.url, str(cache)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)


def _at_once(bench: Bench) -> str:
    bench.web.gets.clear()
    bench.web.delay_s = 0.05
    processes = [_reader_process(bench, bench.cache("at-once")) for _ in range(3)]
    digests = {process.communicate(timeout=120)[0] for process in processes}
    bench.web.delay_s = 0.0
    most = max(count for path, count in bench.web.gets.items() if path.endswith(".tar"))
    return f"{len(digests)} kind(s) of content in 3 processes, each shard asked for {most} time(s)"


def _sigkill(bench: Bench) -> str:
    cache = bench.cache("sigkill")
    bench.web.delay_s = 0.3
    process = _reader_process(bench, cache)
    until = time.monotonic() + 60
    while not any(path.stat().st_size for path in cache.glob("shards/*.part")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    bench.web.delay_s = 0.0
    parts = len(list(cache.glob("shards/*.part")))
    found = _outcome(bench, lambda: read_all_images(bench.web.url, cache))
    return f"{parts} part(s) were left; {found}; {len(list(cache.glob('shards/*.part')))} part(s) left now"


def _damaged_cache(bench: Bench) -> str:
    cache = bench.cache("damaged")
    read_all_images(bench.web.url, cache)
    first, second = sorted(cache.glob("shards/*"))[:2]
    os.truncate(first, 100)
    second.write_bytes(b"x" * second.stat().st_size)
    return _outcome(bench, lambda: read_all_images(bench.web.url, cache))


_ALL = "read all, as on the disk"
CASES: dict[str, tuple[Callable[[Bench], str], str]] = {
    "the web server is killed and comes back after 2 s": (_killed_and_back, _ALL),
    "the store answers 500 four times": (_refused(500, 4), _ALL),
    "the store throttles with 503 four times": (_refused(503, 4), _ALL),
    "the store throttles with 429 four times": (_refused(429, 4), _ALL),
    "the store refuses with 403": (_refused(403, 99), "StoreRefusedError"),
    "a transfer is cut off": (_truncated, _ALL),
    "the store goes and stays away": (_stays_away, "StoreGoneError"),
    "a shard is changed in the store": (_changed, "train-000004.tar: is not the file that was indexed"),
    "the cache's disk is full": (_full, "CacheFullError"),
    "three processes at once": (_at_once, "1 kind(s) of content in 3 processes, each shard asked for 1 time(s)"),
    "a process is killed while it fetches": (_sigkill, f"{_ALL}; 0 part(s) left now"),
    "files in the cache are cut short and written to": (_damaged_cache, _ALL),
}
"""What is done, by name, and what its outcome must say."""


@contextmanager
def _bench(folder: Path) -> Iterator[Bench]:
    shards = write_toy_shards(folder / "shards", shard_samples=20)
    ports = free_port(), free_port()
    command = ["nginx", "-e", str(folder / "start.log"), "-c", str(nginx_settings(shards, folder, ports, "127.0.0.1"))]
    running = ExitStack()

    def start() -> None:
        running.enter_context(serving(command, ports[0]))

    start()
    with running, s3_server() as url:
        s3, web = Line(url), Line(f"http://127.0.0.1:{ports[0]}")
        with s3_at(s3.url):
            put(shards, Address.parse("s3://toys/set"))
            yield Bench(folder, shards, s3, web, running.close, start)


def fault_cases(folder: Path) -> list[dict[str, Any]]:
    """Every case of ``CASES``: what came of it, and whether that is as expected."""
    found = []
    with _bench(folder) as bench:
        for name, (run, expected) in CASES.items():
            begun = time.monotonic()
            outcome = run(bench)
            took_s = round(time.monotonic() - begun, 1)
            print(f"{'as expected' if expected in outcome else 'NOT'}: {name}: {outcome}", file=sys.stderr, flush=True)
            found.append({"case": name, "outcome": outcome, "as_expected": expected in outcome, "took_s": took_s})
    return found
