"""The sample index over WebDataset tars: a row per sample, memory-mapped and held against its digests.

A shard is a plain tar in which the members of one sample lie next to each other and share a key: an image
(``jpg``, ``jpeg``, ``png``, ``webp``, ``bmp``) and a label (``cls``, an ASCII integer, or ``json`` with an integer
field). ``build_index`` walks over the tar headers once and writes an Arrow file beside the tars, ``train.index`` for
the split ``train``; ``open_index`` maps it and makes sure that it still fits the tars, because a stale index would give
wrong labels without a word.

Samples of one shard are contiguous and the shards are in name order, so a sample id is a row number.
Orientation tags (EXIF) are ignored: width and height are those of the pixels as stored.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.addresses import Address
from pipeline.shards.arrow_file import DamagedTableError, read_table, write_table
from pipeline.shards.checked_rows import CheckedRows
from pipeline.shards.checked_shards import check_shards, index_command
from pipeline.shards.exclusion import EXCLUSION_SUFFIX, ExcludedSample, add_samples, exclusion_path, read_exclusion
from pipeline.shards.joined import files_of
from pipeline.shards.level import Level
from pipeline.shards.remote import DATASET_NAME, remote_shards
from pipeline.shards.shard import BadShardsError, Shard, StaleIndexError, fingerprint_of, without_samples
from pipeline.shards.splits import ALL_SPLIT, group_tars
from pipeline.shards.tars import IMAGE_EXTENSIONS, Fault, Members, Row, Scan, scan_shard
from pipeline.storage.cache import CACHED_MTIME_NS, CacheSettings
from pipeline.storage.shard_files import RemoteShards
from pipeline.storage.small_files import beside_files
from pipeline.told import tell_once

FORMAT_VERSION = 1
INDEX_SUFFIX = ".index"

_SCHEMA = pa.schema(
    [
        ("shard", pa.uint32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("label", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("key", pa.large_string()),
        ("extension", pa.large_string()),
    ]
)
_METADATA_KEY = b"samples"

__all__ = [
    "ALL_SPLIT",
    "IMAGE_EXTENSIONS",
    "BadShardsError",
    "Fault",
    "Shard",
    "ShardIndex",
    "StaleIndexError",
    "build_index",
    "extend_index",
    "fingerprint_of",
    "group_tars",
    "index_path",
    "list_splits",
    "open_index",
    "read_index",
]


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The samples of one split. The arrays are read-only views of the mapped file, each [num_samples].

    shard uint32 (position in ``shards``); offset, length int64 (of the image's bytes within the tar);
    label, width, height int32. ``fingerprint`` depends on the shards' names and contents and on what is excluded
    alone, so it is the same on every host. ``excluded``: int64, ascending ids of samples that are left out; they have
    a row, but no place among the ``num_samples``. ``level``: None where the images are not smaller ones of others.
    ``levels``: the same samples at smaller sizes, the largest first (``open_with_levels``). ``remote``: where the
    shards lie if that is a store; ``folder`` then holds copies of the small files beside them.
    """

    folder: Path
    split: str
    shards: tuple[Shard, ...]
    fingerprint: str
    label_field: str | None
    min_label: int
    max_label: int
    shard: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    label: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    _keys: Any = field(repr=False)
    _extensions: Any = field(repr=False)
    _rows: CheckedRows = field(repr=False)
    excluded: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    image_member: str | None = None
    label_member: str | None = None
    level: Level | None = None
    levels: tuple["ShardIndex", ...] = ()
    remote: RemoteShards | None = None

    @property
    def place(self) -> Path | Address:
        """Where the shards lie, as a person named it."""
        return self.folder if self.remote is None else self.remote.address

    def shard_path(self, number: int) -> Path:
        """A shard on this host's disk, where it is there."""
        if self.remote is None or not self.remote.holds(number):
            return self.folder / self.shards[number].name
        return self.remote.path(number)

    @property
    def folders(self) -> tuple["ShardIndex", ...]:
        """The indexes as they lie in their folders: this one, or those that it is mixed of."""
        return (self,)

    def own(self, number: int) -> tuple["ShardIndex", int]:
        """The index that a shard is of, as it lies in its folder, and the shard's number there."""
        return self, number

    @property
    def members(self) -> Members:
        """Where images and labels were looked for in each sample."""
        return Members(self.label_field, self.image_member, self.label_member)

    @property
    def num_samples(self) -> int:
        """Samples that are not excluded."""
        return len(self.shard) - len(self.excluded)

    @property
    def shard_sizes(self) -> npt.NDArray[np.int64]:
        """Samples per shard that are not excluded, int64 [num_shards]."""
        sizes = np.array([shard.num_samples for shard in self.shards], dtype=np.int64)
        return sizes - np.bincount(self.shard[self.excluded], minlength=len(sizes))

    @cached_property
    def files(self) -> "ShardIndex":
        """The files of this index and its levels, see ``joined.files_of``."""
        files: ShardIndex = files_of(self)
        return files

    @property
    def first_ids(self) -> npt.NDArray[np.int64]:
        """Id of the first sample of each shard, and behind them the number of all: int64 [num_shards + 1]."""
        return np.cumsum([0, *(shard.num_samples for shard in self.shards)], dtype=np.int64)

    def sample_ids(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Ids of the samples at places 0 to num_samples - 1 of those that are not excluded: int64, ascending."""
        # Before the j-th excluded id there are that many places.
        places = self.excluded - np.arange(len(self.excluded))
        return positions + np.searchsorted(places, positions, side="right")

    def check(self, sample_ids: npt.NDArray[np.integer]) -> None:
        """Look whether the rows of the samples' shards are as they were written; once for each shard.

        Raises:
            ValueError: the index file changed on the disk; the message names it and the way on.
        """
        self._rows.check(self.shard[sample_ids])

    def key(self, sample_id: int) -> str:
        return self._keys[int(sample_id)].as_py()

    def extension(self, sample_id: int) -> str:
        """The image's extension, in lower case and without the dot."""
        return self._extensions[int(sample_id)].as_py()

    def describe(self, sample_id: int) -> str:
        """Where a sample lies, in words, for error messages."""
        shard = self.shards[self.shard[sample_id]].name
        return f"sample {self.key(sample_id)!r} in {shard} at byte {self.offset[sample_id]}"


def index_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"{split}{INDEX_SUFFIX}"


def list_splits(folder: str | Path) -> list[str]:
    """The splits that have an index in this folder."""
    return sorted(path.stem for path in Path(folder).glob(f"*{INDEX_SUFFIX}"))


def build_index(
    folder: str | Path,
    split: str,
    tar_paths: Iterable[Path],
    *,
    label_field: str | None = None,
    image_member: str | None = None,
    label_member: str | None = None,
    on_shard: Callable[[Path, Scan], object] | None = None,
    leave_out_faulty: bool = False,
    level: Level | None = None,
) -> ShardIndex:
    """Walks over the tars' headers once and writes ``<folder>/<split>.index``, under a temporary name first.

    tar_paths: tars directly in ``folder``; one without any file is indexed with no sample. label_field, image_member,
    label_member: where images and labels are (see ``Members``). on_shard: called after each shard.
    leave_out_faulty: samples with a fault are not indexed, but listed beside the index (see ``exclusion.py``).
    level: what the index is of, if it is of smaller images.
    Raises BadShardsError with every fault of every shard, FileNotFoundError where there is no tar.
    """
    members = Members(label_field, image_member, label_member)
    folder = Path(folder)
    paths = sorted(tar_paths, key=lambda path: path.name)
    if not paths:
        raise FileNotFoundError(f"{folder}: no .tar to index for split '{split}'")
    shards: list[Shard] = []
    faults: list[Fault] = []
    rows: list[Row] = []
    shard_of_row: list[int] = []
    for path in paths:
        assert path.parent.resolve() == folder.resolve(), f"{path} is not in {folder}"
        stat = path.stat()
        scan = scan_shard(path, *members)
        shards.append(Shard(path.name, stat.st_size, stat.st_mtime_ns, len(scan.rows), scan.digest))
        faults.extend(scan.faults)
        shard_of_row.extend([len(shards) - 1] * len(scan.rows))
        rows.extend(scan.rows)
        if on_shard is not None:
            on_shard(path, scan)
    if not rows and not faults:
        faults = [Fault(shard.name, "", "holds no samples") for shard in shards]
    if not all(leave_out_faulty and fault.key for fault in faults) or not rows:
        raise BadShardsError(faults)

    batch = _batch(shard_of_row, rows)
    path = _write(folder, split, members, shards, batch, level)
    if faults:
        left_out = [ExcludedSample(fault.shard, fault.key, fault.reason, None) for fault in faults]
        add_samples(exclusion_path(folder, split), fingerprint_of(shards), left_out)
    return read_index(path)


def extend_index(index: ShardIndex, new: Sequence[tuple[Shard, Sequence[Row]]], level: Level | None) -> ShardIndex:
    """Writes, in the place of an index, that of its shards and of new ones behind them. Nothing of a shard is read.

    new: each shard with its samples, as ``scan_shard`` found them; their names sort behind those that are there.
    level: as for ``build_index``.
    """
    shards = [*index.shards, *(shard for shard, _ in new)]
    assert [shard.name for shard in shards] == sorted({shard.name for shard in shards})
    numbers = [number for number, (_, rows) in enumerate(new, len(index.shards)) for _ in rows]
    more = _batch(numbers, [row for _, rows in new for row in rows])
    columns = (getattr(index, name) for name in _SCHEMA.names[:6])
    batch = pa.record_batch([*map(pa.array, columns), index._keys, index._extensions], schema=_SCHEMA)
    batch = pa.concat_batches([batch, more])
    return read_index(_write(index.folder, index.split, index.members, shards, batch, level))


def _batch(shard_of_row: Sequence[int], rows: Sequence[Row]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(Row._fields)
    return pa.record_batch(
        [pa.array(values, type=column.type) for values, column in zip([shard_of_row, *columns], _SCHEMA, strict=True)],
        schema=_SCHEMA,
    )


def _write(
    folder: Path, split: str, members: Members, shards: Sequence[Shard], batch: pa.RecordBatch, level: Level | None
) -> Path:
    labels = batch.column("label").to_numpy()
    metadata = {
        "format_version": FORMAT_VERSION,
        "split": split,
        **{name: value for name, value in members._asdict().items() if value or name == "label_field"},
        **({} if level is None else {"level": level._asdict()}),
        "min_label": int(labels.min()),
        "max_label": int(labels.max()),
        "fingerprint": fingerprint_of(shards),
        "shards": [asdict(shard) for shard in shards],
    }
    path = index_path(folder, split)
    write_table(path, batch, _METADATA_KEY, metadata, [shard.num_samples for shard in shards])
    return path


def open_index(location: str | Path | Address, split: str, cache: CacheSettings | None = None) -> ShardIndex:
    """The index of a split in a folder of shards (``<split>.index``, else ``all.index``), held against its tars.

    cache: where files of a store are kept; the shards of one are held against the index when they are fetched.
    Raises FileNotFoundError (no folder, no tars, no index, no such split), StaleIndexError (the tars are not
    those that were indexed) or ValueError (the index cannot be read, or the store).
    """
    if isinstance(location, Address):
        return _open_remote(location, split, cache)
    folder = Path(location)
    if not folder.is_dir():
        what = "is a file; name the folder that holds the shards" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"shard folder {folder} {what}")
    if (index := _read_split(folder, split)) is not None:
        return _exclude(replace(index, shards=check_shards(index)))
    if splits := list_splits(folder):
        raise FileNotFoundError(f"{folder}: no split '{split}'; the indexes there are for: {', '.join(splits)}")
    if any(folder.glob("*.tar")):
        raise FileNotFoundError(f"{folder}: tars without an index; make one with: {index_command(folder)}")
    raise FileNotFoundError(
        f"{folder}: neither tars nor an index; shards are made with: "
        f"python -m tools.shards convert --source SOURCE --out {folder}"
    )


def _open_remote(address: Address, split: str, cache: CacheSettings | None) -> ShardIndex:
    beside = beside_files(address, cache)
    suffixes = INDEX_SUFFIX, EXCLUSION_SUFFIX
    beside.renew([DATASET_NAME, *(f"{name}{suffix}" for name in (split, ALL_SPLIT) for suffix in suffixes)])
    if (index := _read_split(beside.folder, split, address)) is None:
        beside.check_bucket()
        raise FileNotFoundError(
            f"{address}: no index of a split '{split}' there; make one of the tars there with: {index_command(address)}"
        )
    remote = remote_shards(beside, index.split, index.shards, index.fingerprint, index.members)
    shards = tuple(replace(shard, mtime_ns=CACHED_MTIME_NS) for shard in index.shards)
    return _exclude(replace(index, shards=shards, remote=remote))


def _read_split(folder: Path, split: str, place: Path | Address | None = None) -> ShardIndex | None:
    """The index that a folder has for a split, its rows checked; None where it has none. place: as ``read_index``."""
    for name in (split, ALL_SPLIT):
        if index_path(folder, name).is_file():
            index = read_index(index_path(folder, name), place)
            _check_rows(index, place or folder)
            return index
    return None


def read_index(path: Path, place: Path | Address | None = None) -> ShardIndex:
    """Maps an index file without looking at its tars or at its rows. Raises ValueError where it cannot be read.

    place: where its tars lie, if not beside it.
    """
    again = index_command(place or path.parent)
    try:
        table = read_table(path, _METADATA_KEY, FORMAT_VERSION)
        facts, batch = table.facts, table.batch
        shards = tuple(Shard(**shard) for shard in facts["shards"])
        table.expect(_SCHEMA, sum(shard.num_samples for shard in shards))
        numbers = {name: batch.column(name).to_numpy(zero_copy_only=True) for name in _SCHEMA.names[:6]}
        return ShardIndex(
            folder=path.parent,
            split=facts["split"],
            shards=shards,
            fingerprint=facts["fingerprint"],
            label_field=facts["label_field"],
            min_label=facts["min_label"],
            max_label=facts["max_label"],
            **numbers,
            _keys=batch.column("key"),
            _extensions=batch.column("extension"),
            _rows=CheckedRows(path, table, [s.name for s in shards], [s.num_samples for s in shards], again),
            image_member=facts.get("image_member"),
            label_member=facts.get("label_member"),
            level=Level(**facts["level"]) if "level" in facts else None,
        )
    except (DamagedTableError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a readable sample index ({error}); make it again with: {again}") from error


def _exclude(index: ShardIndex) -> ShardIndex:
    path = exclusion_path(index.folder, index.split)
    if not path.is_file():
        return index
    exclusion = read_exclusion(path)
    if exclusion.fingerprint != index.fingerprint:
        raise StaleIndexError(
            f"{path}: this list of excluded samples was made for other shards than those of "
            f"{index.split}{INDEX_SUFFIX}; make it again with: python -m tools.shards verify {index.folder} --exclude, "
            "or remove it"
        )
    if len(exclusion.ids) and exclusion.ids[-1] >= index.num_samples:
        raise ValueError(f"{path}: sample_id {exclusion.ids[-1]}, but the index holds {index.num_samples} samples")
    fingerprint = without_samples(index.fingerprint, exclusion.ids.tolist())
    return replace(index, excluded=exclusion.ids, fingerprint=fingerprint)


def _check_rows(index: ShardIndex, place: Path | Address) -> None:
    """The rows of an index of up to a gigabyte; those of a larger one are checked as they are used."""
    rows = index._rows
    if not rows.has_digests:
        path, again = index_path(index.folder, index.split), index_command(place)
        tell_once(f"{path}: has no digests of its rows, so they are not checked; to have them checked: {again}")
    if rows.is_small:
        rows.check_all()
