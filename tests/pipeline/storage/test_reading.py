"""Shards in stores: what is read of them is what lies there, fetched once a host, whatever goes wrong on the way."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.shared.shard_files import write_tar
from benchmarks.shared.shell import ROOT, environment
from benchmarks.shared.stores import Line, put
from pipeline.addresses import Address
from pipeline.shards.exclusion import ExcludedSample, add_samples, exclusion_path
from pipeline.shards.index import ShardIndex, build_index, open_index
from pipeline.shards.reader import SampleReader
from pipeline.storage.cache import CacheSettings
from pipeline.storage.errors import (
    CacheFullError,
    ChangedFileError,
    NotInStoreError,
    StoreError,
    StoreGoneError,
    StoreRefusedError,
)


def all_images(index: ShardIndex) -> list[bytes]:
    with SampleReader(index) as reader:
        return [bytes(image) for image in reader.read(np.arange(len(index.shard)))]


@pytest.fixture
def bucket(s3_line: Line, garment_shards: Path, request: pytest.FixtureRequest) -> Address:
    """The garments in a bucket of the test's own."""
    name = "".join(letter for letter in request.node.name.lower() if letter.isalnum())
    address = Address.parse(f"s3://{name[:50]}/sets/garments")
    put(garment_shards, address)
    s3_line.gets.clear()
    return address


@pytest.fixture
def opened(bucket: Address, tmp_path: Path) -> Callable[..., ShardIndex]:
    def open_it(folder: str = "cache", max_bytes: int | None = None, patience_s: float = 20) -> ShardIndex:
        return open_index(bucket, "train", CacheSettings(tmp_path / folder, max_bytes, patience_s))

    return open_it


def test_shards_in_a_bucket_are_those_of_the_disk(
    garment_shards: Path, opened: Callable[..., ShardIndex], s3_line: Line
) -> None:
    local, remote = open_index(garment_shards, "train"), opened()
    assert remote.fingerprint == local.fingerprint
    assert all_images(remote) == all_images(local)
    assert remote.remote is not None
    assert remote.remote.traffic.num_files == len(local.shards)
    assert remote.remote.traffic.num_bytes == sum(shard.size_bytes for shard in local.shards)


@pytest.mark.parametrize("ranges", [0, 1], ids=["with ranges", "without ranges"])
def test_a_web_server_needs_neither_a_listing_nor_ranges(
    garment_shards: Path, web: tuple[str, str], ranges: int, tmp_path: Path
) -> None:
    remote = open_index(Address.parse(web[ranges]), "train", CacheSettings(tmp_path))
    assert all_images(remote) == all_images(open_index(garment_shards, "train"))
    assert open_index(Address.parse(web[ranges]), "val", CacheSettings(tmp_path)).num_samples == 20


def test_what_is_in_the_cache_is_not_fetched_again(opened: Callable[..., ShardIndex], s3_line: Line) -> None:
    all_images(opened())
    tars = {path: count for path, count in s3_line.gets.items() if path.endswith(".tar")}
    assert set(tars.values()) == {1}
    all_images(opened())
    assert {path: count for path, count in s3_line.gets.items() if path.endswith(".tar")} == tars


def test_a_reader_keeps_few_files_open_however_many_shards_it_reads(
    web: tuple[str, str], garment_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.shard_files.MOST_OPEN", 2)
    remote = open_index(Address.parse(web[0]), "train", CacheSettings(tmp_path))
    with SampleReader(remote, max_open_shards=1) as reader:
        found = [bytes(image) for image in reader.read(np.arange(96))]
        assert reader.files is not None
        assert len(reader.files._held) == 2
    assert found == all_images(open_index(garment_shards, "train"))


def test_readers_at_the_same_time_fetch_each_shard_once(opened: Callable[..., ShardIndex], s3_line: Line) -> None:
    indexes = [opened() for _ in range(4)]
    s3_line.delay_s = 0.05
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(all_images, indexes))
    assert all(images == found[0] for images in found)
    assert {count for path, count in s3_line.gets.items() if path.endswith(".tar")} == {1}


def test_two_hosts_fetch_each_shard_once_each(opened: Callable[..., ShardIndex], s3_line: Line) -> None:
    all_images(opened("one host"))
    all_images(opened("another host"))
    assert {count for path, count in s3_line.gets.items() if path.endswith(".tar")} == {2}


@pytest.mark.parametrize("answer", [500, 503, 429])
def test_a_server_that_asks_for_patience_gets_it(
    opened: Callable[..., ShardIndex], s3_line: Line, garment_shards: Path, answer: int
) -> None:
    remote = opened()
    s3_line.answer, s3_line.refusals = answer, 2
    assert all_images(remote) == all_images(open_index(garment_shards, "train"))


def test_a_transfer_that_breaks_off_goes_on_where_it_broke_off(
    web: tuple[str, str], garment_shards: Path, tmp_path: Path
) -> None:
    line = Line(web[0])
    remote = open_index(Address.parse(line.url), "train", CacheSettings(tmp_path))
    line.cut_after = 10_000
    assert all_images(remote) == all_images(open_index(garment_shards, "train"))
    assert remote.remote is not None
    assert remote.remote.traffic.num_bytes == sum(shard.size_bytes for shard in remote.shards)
    line.close()


def test_a_server_that_comes_back_is_waited_for(
    opened: Callable[..., ShardIndex], s3_line: Line, garment_shards: Path
) -> None:
    remote = opened()
    s3_line.is_down = True
    threading.Timer(1.0, lambda: setattr(s3_line, "is_down", False)).start()
    assert all_images(remote) == all_images(open_index(garment_shards, "train"))


def test_a_server_that_stays_away_is_told_after_the_patience(opened: Callable[..., ShardIndex], s3_line: Line) -> None:
    remote = opened(patience_s=0.5)
    s3_line.is_down = True
    with pytest.raises(StoreGoneError, match=r"train-00000\d.*data\.remote_patience_s"):
        all_images(remote)


def test_no_rights_no_bucket_and_no_index_are_told_apart(
    opened: Callable[..., ShardIndex], s3_line: Line, bucket: Address, tmp_path: Path
) -> None:
    remote = opened()
    s3_line.answer, s3_line.refusals = 403, 99
    with pytest.raises(StoreRefusedError, match=r"no rights.*AWS_ACCESS_KEY_ID"):
        all_images(remote)
    with pytest.raises(NotInStoreError, match="no such bucket as nowhere"):
        open_index(Address.parse("s3://nowhere/set"), "train", CacheSettings(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no index.*tools\.shards index s3://"):
        open_index(bucket.join("deeper"), "train", CacheSettings(tmp_path))
    with pytest.raises(StoreError, match=r"data\.cache_folder"):
        open_index(bucket, "train")


def with_digests(folder: Path, to: Path) -> Path:
    """A folder that holds a ``dataset.json`` with the SHA-256 of a folder's training shards, and nothing else."""
    index = open_index(folder, "train")
    told = {shard.name: hashlib.sha256((folder / shard.name).read_bytes()).hexdigest() for shard in index.shards}
    to.mkdir()
    (to / "dataset.json").write_text(
        json.dumps({"splits": {"train": {"fingerprint": index.fingerprint, "sha256": told}}, "classes": []})
    )
    return to


@pytest.mark.parametrize("has_digests", [True, False])
def test_a_shard_that_changed_in_the_store_is_named(
    opened: Callable[..., ShardIndex], bucket: Address, garment_shards: Path, tmp_path: Path, has_digests: bool
) -> None:
    """By its headers, or by all of its bytes where ``dataset.json`` tells their digest."""
    if has_digests:
        put(with_digests(garment_shards, tmp_path / "digests"), bucket)
    remote = opened()
    changed = tmp_path / "changed"
    shutil.copytree(garment_shards, changed)
    content = bytearray((changed / "train-000001.tar").read_bytes())
    content[600 if has_digests else 505] ^= 1  # of the first image; of the first header
    (changed / "train-000001.tar").write_bytes(content)
    put(changed, bucket)
    with pytest.raises(ChangedFileError, match=r"train-000001\.tar.*changed in the store"):
        all_images(remote)


@pytest.mark.parametrize("change", [-512, 512])
def test_a_shard_of_another_size_is_named(
    opened: Callable[..., ShardIndex], bucket: Address, garment_shards: Path, tmp_path: Path, change: int
) -> None:
    remote = opened()
    changed = tmp_path / "changed"
    shutil.copytree(garment_shards, changed)
    size = (changed / "train-000001.tar").stat().st_size
    os.truncate(changed / "train-000001.tar", size + change)
    put(changed, bucket)
    if change < 0:
        with pytest.raises(ChangedFileError, match=rf"train-000001\.tar.*has {size + change} bytes, but {size}"):
            all_images(remote)
    else:  # what the index knows of is there as it was
        assert all_images(remote)


def test_a_disk_without_room_is_told(opened: Callable[..., ShardIndex], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    remote = opened()
    monkeypatch.setattr("pipeline.storage.fetching.os.pwrite", full)
    with pytest.raises(CacheFullError, match=r"no room.*data\.cache_max_bytes"):
        all_images(remote)


def test_a_list_of_excluded_samples_in_the_store_counts(bucket: Address, garment_shards: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(garment_shards, changed)
    index = open_index(changed, "train")
    bad = ExcludedSample(index.shards[0].name, index.key(3), "for the test", 3)
    add_samples(exclusion_path(changed, "train"), index.fingerprint, [bad])
    put(changed, bucket)
    remote = open_index(bucket, "train", CacheSettings(tmp_path / "cache"))
    assert remote.num_samples == index.num_samples - 1
    assert remote.fingerprint == open_index(changed, "train").fingerprint


def test_a_new_index_in_the_store_is_seen_at_the_next_start(
    bucket: Address, opened: Callable[..., ShardIndex], garment_shards: Path, tmp_path: Path
) -> None:
    assert opened().num_samples == 96
    folder = tmp_path / "more"
    shutil.copytree(garment_shards, folder)
    (folder / "train.index").unlink()
    write_tar(folder / "train-000003.tar", [("x.png", (_png())), ("x.cls", b"1")])
    build_index(folder, "train", sorted(folder.glob("train-*.tar")))
    put(folder, bucket)
    assert opened().num_samples == 97


def _png() -> bytes:
    sink = io.BytesIO()
    Image.new("L", (28, 28)).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_part_of_a_shard_or_all_of_it_is_gone_on_with(
    web: tuple[str, str], garment_shards: Path, tmp_path: Path, share: float
) -> None:
    """A process may be killed when it has all the bytes and has not said so yet."""
    remote = open_index(Address.parse(web[0]), "train", CacheSettings(tmp_path))
    assert remote.remote is not None
    content = (garment_shards / "train-000000.tar").read_bytes()
    part = tmp_path / "shards" / f"{remote.remote.path(0).name}.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(content[: int(share * len(content))])
    assert all_images(remote) == all_images(open_index(garment_shards, "train"))
    assert remote.remote.traffic.num_bytes == sum(remote.remote.sizes) - int(share * len(content))


def test_what_is_left_and_damaged_is_fetched_anew(web: tuple[str, str], garment_shards: Path, tmp_path: Path) -> None:
    remote = open_index(Address.parse(web[0]), "train", CacheSettings(tmp_path))
    assert remote.remote is not None
    part = tmp_path / "shards" / f"{remote.remote.path(0).name}.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(bytes(remote.remote.sizes[0]))
    assert all_images(remote) == all_images(open_index(garment_shards, "train"))


READS_ALL = """
import sys
from pathlib import Path

import numpy as np

from pipeline.addresses import Address
from pipeline.shards.index import open_index
from pipeline.shards.reader import SampleReader
from pipeline.storage.cache import CacheSettings

index = open_index(Address.parse(sys.argv[1]), "train", CacheSettings(Path(sys.argv[2])))
SampleReader(index).read(np.arange(len(index.shard)))
"""


def test_what_a_killed_process_left_is_gone_on_with(web: tuple[str, str], garment_shards: Path, tmp_path: Path) -> None:
    line = Line(web[0])
    line.delay_s = 0.2
    other = subprocess.Popen([sys.executable, "-c", READS_ALL, line.url, str(tmp_path)], cwd=ROOT, env=environment())
    until = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob("shards/*.part")) and time.monotonic() < until:
        time.sleep(0.01)
    other.kill()
    other.wait()
    left = [path.stat().st_size for path in tmp_path.glob("shards/*.part")]
    assert len(left) == 1
    assert left[0] > 0
    line.delay_s = 0.0
    remote = open_index(Address.parse(line.url), "train", CacheSettings(tmp_path))
    assert all_images(remote) == all_images(open_index(garment_shards, "train"))
    assert remote.remote is not None
    assert remote.remote.traffic.num_bytes < sum(remote.remote.sizes)
    assert not list(tmp_path.glob("shards/*.part"))
    line.close()
