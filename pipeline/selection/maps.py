"""Score maps: a small grid of scores for each sample, made once, by which patches are chosen before an image is read.

``train-000000.NAME.map`` beside ``train-000000.tar``, an Arrow file with a row for each indexed sample of the shard:
the grid's cells in raster order, a byte each. Cell (i, j) of a grid of G stands for rows i * H / G to (i + 1) * H / G
of the stored image, and for such columns. ``python -m tools.shards score`` writes them.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.shards.arrow_file import DamagedTableError, Table, read_table, write_table
from pipeline.shards.index import Shard, ShardIndex

FORMAT_VERSION = 1
MAP_SUFFIX = ".map"
GRID_SIZE = 16  # by default
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_METADATA_KEY = b"map"


class NoMapError(ValueError):
    """A shard has no map of this name, or one that is of other shards."""


@dataclass(frozen=True)
class MapFacts:
    """What a map file says of itself.

    Attributes:
        shard, digest: name of the tar that it is of, and the digest that the index has of it.
        grid_size: cells along one side.
        kind: what made it, such as ``contrast`` or ``magnitude:runs/fashion_mnist``.
        made_by: all else that decides its scores, such as a digest of the weights; JSON.
        unscored: rows of samples that were excluded when it was made; their cells are 0.
        grids_digest: SHA-256 of the scores.
    """

    shard: str
    digest: str
    grid_size: int
    kind: str
    made_by: dict[str, Any]
    unscored: list[int]
    grids_digest: str

    @property
    def kind_name(self) -> str:
        """The kind without what stands behind its colon: a path, which decides nothing, or what ``made_by`` tells."""
        return self.kind.partition(":")[0]


@dataclass(frozen=True, eq=False)
class ShardMaps:
    """The maps of a shard: ``grids`` uint8 [samples, G, G] is a view of the mapped file."""

    facts: MapFacts
    grids: npt.NDArray[np.uint8]
    _table: Table = field(repr=False)

    def check(self) -> None:
        """Look whether the scores are those that were written.

        Raises:
            DamagedTableError: they changed on the disk.
        """
        self._table.check_whole()
        if hashlib.sha256(self.grids.data).hexdigest() != self.facts.grids_digest:
            raise DamagedTableError("its scores are not those that were written: they changed on the disk")

    def check_whole(self) -> None:
        """Raises DamagedTableError if the file was cut short since it was opened."""
        self._table.check_whole()


def check_map_name(name: str) -> str:
    """The name. Raises ValueError if no map could be called so."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a score map: it takes letters, digits, - and _, such as contrast")
    return name


def map_path(tar: Path, name: str) -> Path:
    return tar.with_suffix(f".{name}{MAP_SUFFIX}")


def list_maps(folder: Path) -> list[str]:
    """Names of the maps that any shard of a folder has."""
    names = {path.suffixes[-2][1:] for path in folder.glob(f"*{MAP_SUFFIX}") if len(path.suffixes) > 1}
    return sorted(name for name in names if _NAME.fullmatch(name))


def maps_beside(index: ShardIndex) -> list[str]:
    """Names of the maps that any shard of a split has."""
    tars = [index.folder / shard.name for shard in index.shards]
    return [name for name in list_maps(index.folder) if any(map_path(tar, name).is_file() for tar in tars)]


def write_maps(
    tar: Path,
    name: str,
    digest: str,
    grids: npt.NDArray[np.uint8],
    *,
    kind: str,
    made_by: dict[str, Any],
    unscored: list[int],
) -> None:
    """Write the file beside a shard, whole or not at all. The same scores give the same bytes.

    Args:
        digest: of the shard, as the index has it.
        grids: uint8 [samples, G, G], C-contiguous.
        kind, made_by, unscored: as in ``MapFacts``.
    """
    num, grid_size, _ = grids.shape
    sha256 = hashlib.sha256(grids.data).hexdigest()
    facts = MapFacts(tar.name, digest, grid_size, kind, made_by, unscored, sha256)
    schema = _schema(grid_size)
    column = pa.FixedSizeBinaryArray.from_buffers(schema.field(0).type, num, [None, pa.py_buffer(grids.reshape(-1))])
    told = {"format_version": FORMAT_VERSION, **asdict(facts)}
    write_table(map_path(tar, name), pa.record_batch([column], schema=schema), _METADATA_KEY, told)


def open_shard_maps(folder: Path, shard: Shard, name: str) -> ShardMaps | None:
    """The maps of a shard's samples; None where there is no file of them, or one of another shard.

    Raises:
        ValueError: the file cannot be read.
    """
    path = map_path(folder / shard.name, name)
    if not path.is_file():
        return None
    try:
        table = read_table(path, _METADATA_KEY, FORMAT_VERSION)
        facts = MapFacts(**{key: value for key, value in table.facts.items() if key != "format_version"})
        if facts.digest != shard.digest:
            return None
        table.expect(_schema(facts.grid_size), shard.num_samples)
    except (DamagedTableError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a readable score map ({error}); remove it, and make it again with: "
            f"{score_command(folder, name)}"
        ) from error
    size = facts.grid_size**2
    cells = np.frombuffer(table.batch.column(0).buffers()[1], np.uint8, size * shard.num_samples)
    return ShardMaps(facts, cells.reshape(-1, facts.grid_size, facts.grid_size), table)


class ScoreMaps:
    """The score maps of one name over all shards of a split. Files are opened when they are first asked for.

    Raises:
        ValueError: the name could be no map's.
    """

    def __init__(self, index: ShardIndex, name: str) -> None:
        self.name, self._index = check_map_name(name), index
        self._opened: dict[int, ShardMaps] = {}
        self._sound: set[int] = set()  # whose scores were found to be those that were written
        sizes = np.array([shard.num_samples for shard in index.shards], dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(sizes)[:-1]])  # sample id of each shard's first row

    def grids(self, sample_ids: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """The maps of samples, in the order given: uint8 [B, G, G].

        Raises:
            NoMapError: a shard has no such map, or one that was made of other images.
            ValueError: a map cannot be read, has another grid than the others, or is not as it was written.
        """
        numbers = self._index.shard[sample_ids]
        rows = np.asarray(sample_ids) - self._first[numbers]
        found = np.empty((len(rows), self.grid_size, self.grid_size), np.uint8)
        for number in np.unique(numbers).tolist():
            self._check(number)
        for place, (number, row) in enumerate(zip(numbers.tolist(), rows.tolist(), strict=True)):
            found[place] = self._of_shard(number).grids[row]
        return found

    def _check(self, number: int) -> None:
        """Whether a shard's file is still whole and, the first time, its scores are those that were written."""
        maps = self._of_shard(number)
        try:
            if number in self._sound:
                maps.check_whole()
            else:
                maps.check()
                self._sound.add(number)
        except DamagedTableError as error:
            path = map_path(self._index.folder / self._index.shards[number].name, self.name)
            raise ValueError(
                f"{path}: {error}; remove it, and make it again with: {score_command(path.parent, self.name)}"
            ) from None

    @property
    def grid_size(self) -> int:
        """Cells along one side of each map, as the first shard's say. Raises as ``grids``."""
        return self._of_shard(0).facts.grid_size

    def facts(self) -> list[MapFacts]:
        """What the file of every shard says of itself; opens them all.

        Raises:
            NoMapError, ValueError: as ``grids``.
        """
        return [self._of_shard(number).facts for number in range(len(self._index.shards))]

    def fingerprint(self) -> str:
        """Depends on the scores of all samples and on what made them, and on nothing else. Raises as ``grids``."""
        told = [[one.shard, one.digest, one.kind_name, one.made_by, one.grids_digest] for one in self.facts()]
        return hashlib.sha256(json.dumps([self.grid_size, told], sort_keys=True).encode()).hexdigest()

    def _of_shard(self, number: int) -> ShardMaps:
        if number not in self._opened:
            self._opened[number] = self._checked(number)
        return self._opened[number]

    def _checked(self, number: int) -> ShardMaps:
        index, name = self._index, self.name
        shard = index.shards[number]
        maps = open_shard_maps(index.folder, shard, name)
        path = map_path(index.folder / shard.name, name)
        folder = path.parent
        if maps is None and path.is_file():
            raise NoMapError(
                f"{path}: this score map was made of another shard than the one that lies there now; make it again "
                f"with: {score_command(folder, name)}"
            )
        if maps is None:
            there = ", ".join(list_maps(folder)) or "none"
            raise NoMapError(
                f"{path.name}: {folder} has no such score map for this shard (maps there: {there}); make it "
                f"with: {score_command(folder, name)}"
            )
        if number != 0 and maps.facts.grid_size != self.grid_size:
            raise ValueError(
                f"{path}: a grid of {maps.facts.grid_size}, but {index.shards[0].name} has one of {self.grid_size}; "
                f"make all maps of one name with one --grid: {score_command(folder, name)}"
            )
        first = int(self._first[number])
        if unscored := sorted(set(maps.facts.unscored) - {int(one) - first for one in self._excluded(number)}):
            raise ValueError(
                f"{path}: {index.describe(first + unscored[0])} was excluded when this map was made and is not now; "
                f"remove the file, and make it again with: {score_command(folder, name)}"
            )
        return maps

    def _excluded(self, number: int) -> npt.NDArray[np.int64]:
        excluded = self._index.excluded
        return excluded[self._index.shard[excluded] == number]


def score_command(folder: Path, name: str) -> str:
    """The command that makes maps of a name, as far as the name tells of their kind."""
    kind = name if name in ("bytes", "contrast") else f"KIND --name {name}"
    return f"python -m tools.shards score {folder} --by {kind}"


def _schema(grid_size: int) -> pa.Schema:
    return pa.schema([pa.field("grid", pa.binary(grid_size**2), nullable=False)])
