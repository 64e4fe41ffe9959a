"""One shard -> the same shard with addressable JPEGs, with its ``.idx`` and ``.units`` files beside it."""

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pipeline.jpeg.addressable import Units
from pipeline.shards.index import Shard
from pipeline.shards.tars import Members, Row, Scan, scan_shard
from pipeline.shards.units import write_units
from tools.shards.addressable import make_addressable
from tools.shards.dali_index import write_dali_index
from tools.shards.journal import ShardRecord
from tools.shards.tally import Tally
from tools.shards.whole_file import WholeFile


@dataclass(frozen=True)
class ShardJob:
    """A shard of a split, the folders that it comes from and goes to, and where its samples' images and labels are."""

    source: Path
    out: Path
    split: str
    shard: Shard
    members: Members


def readdress_shard(job: ShardJob) -> ShardRecord:
    """Write a shard anew under its own name. It is whole or absent; what is there under that name is replaced.

    All members keep their names, their order and, but for the JPEGs that are transcoded, their bytes. They lose times
    and owners, as in shards of a conversion.

    Raises:
        ValueError: the shard is no longer what it was.
        OSError: it cannot be read, or its like cannot be written.
    """
    path, target = job.source / job.shard.name, job.out / job.shard.name
    scan, tally, units = scan_unchanged(job), Tally(), list[Units | None]()

    def store(_: Row, image: bytes) -> bytes:
        stored = make_addressable(image)
        tally.add(stored)
        units.append(stored.units)
        return stored.data

    try:
        size_bytes, sha256 = write_like(path, target, scan.rows, store)
        new = scan_shard(target, *job.members)
        if [_facts(row) for row in new.rows] != [_facts(row) for row in scan.rows]:
            raise OSError("its samples were not read back as they were written")
        write_dali_index(target, new)
        write_units(target, new.digest, units)
    except (OSError, tarfile.TarError) as error:
        raise OSError(f"{path} could not be written anew as {target}: {error}") from error
    return ShardRecord(
        job.split, job.shard.name, len(new.rows), size_bytes, sha256, len(new.rows), [], addressable=tally.as_json()
    )


def scan_unchanged(job: ShardJob) -> Scan:
    """The shard of a job as it is. Raises ValueError where it is no longer what it was."""
    path = job.source / job.shard.name
    scan = scan_shard(path, *job.members)
    if scan.digest != job.shard.digest:
        raise ValueError(
            f"{path}: was changed after it was looked at first; index it again with: "
            f"python -m tools.shards index {job.source}, and start over with another folder than {job.out}"
        )
    return scan


def _facts(row: Row) -> tuple[str, str, int, int, int]:
    """What a sample is told by, apart from where it lies and how long it is."""
    return row.key, row.extension, row.label, row.width, row.height


def write_like(path: Path, target: Path, rows: list[Row], store: Callable[[Row, bytes], bytes]) -> tuple[int, str]:
    """Write a tar anew, whole or not at all.

    All members keep their names, their order and, but for the images of samples, their bytes. They lose times and
    owners, as in shards of a conversion.

    Args:
        rows: the samples of the tar.
        store: from a sample and its image file to the file to write in its place; called in the tar's order.

    Returns:
        Size in bytes and SHA-256 of what was written.
    """
    images = {row.offset: row for row in rows}
    file = WholeFile(target)
    try:
        stream = cast(IO[bytes], file)  # a tar that is written in one go is only written to
        with open(path, "rb") as source, tarfile.open(fileobj=stream, mode="w|") as tar:
            for member, content in _members(source):
                row = None if content is None else images.get(member.offset_data)
                if row is not None and content is not None:
                    stored = store(row, content.read())
                    tar.addfile(_header(member, len(stored)), io.BytesIO(stored))
                else:
                    tar.addfile(_header(member, 0 if content is None else member.size), content)
        return file.finish()
    except BaseException:
        file.abandon()
        raise


def _members(source: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Every member of a tar, with its content where it is a file."""
    with tarfile.open(fileobj=source, mode="r:") as tar:
        for member in tar:
            yield member, tar.extractfile(member) if member.isreg() else None


def _header(member: tarfile.TarInfo, size: int) -> tarfile.TarInfo:
    """A member's header with another size, and without time and owner."""
    header = tarfile.TarInfo(member.name)
    header.size, header.mode, header.linkname = size, member.mode, member.linkname
    header.type = tarfile.REGTYPE if member.isreg() else member.type
    return header
