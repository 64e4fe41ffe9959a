"""One shard -> the same shard with smaller images, with its ``.idx`` and, of addressable JPEGs, ``.units`` file."""

import tarfile
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.jpeg.addressable import Units
from pipeline.shards.tars import Row, scan_shard
from pipeline.shards.units import write_units
from tools.shards.addressable import as_it_is
from tools.shards.dali_index import write_dali_index
from tools.shards.images import DEFAULT_QUALITY, Encoding, prepare
from tools.shards.journal import ShardRecord
from tools.shards.readdress_shard import ShardJob, scan_unchanged, write_like


@dataclass(frozen=True)
class LevelJob:
    """A shard and what becomes of its images.

    Attributes:
        pixels: images whose shorter side is longer are shrunk to it there.
        addressable: JPEGs are written so that each of their units can be reached alone.
    """

    place: ShardJob
    pixels: int
    addressable: bool


@dataclass
class LevelTally:
    """What became of images, by number.

    Attributes:
        num_shrunk: were shrunk and encoded anew.
        num_copied: were small enough, and stayed byte for byte.
        unread: reason -> images that stayed byte for byte because they cannot be decoded.
    """

    num_shrunk: int = 0
    num_copied: int = 0
    unread: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "unread": dict(sorted(self.unread.items()))}


def write_level_shard(job: LevelJob) -> ShardRecord:
    """Write a shard's smaller images under its name. It is whole or absent; what is there of that name is replaced.

    Members keep their names and their order, and all but the images of samples their bytes. Images keep their format;
    what is encoded with loss has quality 90. Orientation tags are not applied, as in the loader.

    Raises:
        ValueError: the shard is no longer what it was.
        OSError: it cannot be read, or its like cannot be written.
    """
    place = job.place
    path, target = place.source / place.shard.name, place.out / place.shard.name
    scan, tally, units = scan_unchanged(place), LevelTally(), list[Units | None]()
    encoding = Encoding(quality=DEFAULT_QUALITY, resize_shorter=job.pixels, addressable=job.addressable)

    def store(row: Row, image: bytes) -> bytes:
        stored = _smaller(row, image, encoding, tally)
        if job.addressable:
            units.append(as_it_is(stored).units)
        return stored

    try:
        size_bytes, sha256 = write_like(path, target, scan.rows, store)
        new = scan_shard(target, *place.members)
        if [_facts(row) for row in new.rows] != [_facts(row) for row in scan.rows]:
            raise OSError("its samples were not read back as they were written")
        write_dali_index(target, new)
        if job.addressable:
            write_units(target, new.digest, units)
    except (OSError, tarfile.TarError) as error:
        raise OSError(f"{path} could not be written smaller as {target}: {error}") from error
    rows = len(new.rows)
    return ShardRecord(place.split, place.shard.name, rows, size_bytes, sha256, rows, [], level=tally.as_json())


def _smaller(row: Row, image: bytes, encoding: Encoding, tally: LevelTally) -> bytes:
    """The image file to store, counted."""
    assert encoding.resize_shorter is not None
    if min(row.width, row.height) <= encoding.resize_shorter:
        tally.num_copied += 1
        return image
    try:
        stored = prepare(image, encoding).data
    except ValueError as error:
        tally.unread[str(error)] = tally.unread.get(str(error), 0) + 1
        return image
    tally.num_shrunk += 1
    return stored


def _facts(row: Row) -> tuple[str, str, int]:
    """What a sample is told by at any size."""
    return row.key, row.extension, row.label
