"""What a configuration's ``data`` names, opened: one folder or several to train on, one validation set or several."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.addresses import Address
from pipeline.config import DataConfig
from pipeline.shards.class_lists import ClassList, one_list, table_of
from pipeline.shards.classes import read_class_names
from pipeline.shards.index import ShardIndex, open_index
from pipeline.shards.levels import open_with_levels
from pipeline.shards.mixed import MixedIndex, Table, mixed
from pipeline.sources import epoch_samples
from pipeline.storage.cache import CacheSettings
from pipeline.storage.small_files import small_files_of


@dataclass(frozen=True, eq=False)
class ValSet:
    """A validation set. ``name``: None where ``data.val`` is a folder; ``key``: of the configuration, for messages."""

    name: str | None
    index: ShardIndex

    @property
    def key(self) -> str:
        return "data.val" if self.name is None else f"data.val.{self.name}"


def open_train(data: DataConfig) -> ShardIndex:
    """The training set, with its levels; a ``MixedIndex`` where there are several sources.

    Raises:
        ValueError, OSError: see ``open_with_levels``; or classes of a source that cannot be brought to the run's.
    """
    cache = data.shard_cache
    if not isinstance(data.train, tuple):
        return open_with_levels(data.train, "train", data.levels, cache)
    opened = [(one.name, open_with_levels(one.folder, "train", data.levels, cache)) for one in data.train]
    _, tables = one_list(_train_lists(data))
    for (name, index), table in zip(opened, tables, strict=True):
        _check_labels(f"data.train.{name}", index, table)
    return mixed(opened, tables)


def open_val(data: DataConfig) -> tuple[ValSet, ...]:
    """Every validation set; where there is any list, labels are brought to the run's. Raises as ``open_train``."""
    cache = data.shard_cache
    if not isinstance(data.val, tuple) and not isinstance(data.train, tuple):
        return (ValSet(None, open_index(data.val, "val", cache)),)
    names = class_names_of(data)
    if not isinstance(data.val, tuple):
        return (_val_set(None, data.val, {}, names, cache),)
    return tuple(_val_set(one.name, one.folder, one.classes or {}, names, cache) for one in data.val)


def open_first_val(data: DataConfig) -> ShardIndex:
    """The validation set, or the first of several. Raises as ``open_train``."""
    return open_val(data)[0].index


def class_names_of(data: DataConfig) -> list[str]:
    """The run's classes in label order, of all sources; empty where no ``dataset.json`` names them.

    Raises:
        ValueError, OSError: as ``open_train``.
    """
    if not isinstance(data.train, tuple):
        return read_class_names(small_files_of(data.train, data.shard_cache))
    return one_list(_train_lists(data))[0]


def epoch_samples_of(data: DataConfig, index: ShardIndex) -> int:
    """How many samples of the opened training set an epoch sees, where it leaves none out."""
    if not isinstance(data.train, tuple) or not isinstance(index, MixedIndex):
        return index.num_samples
    return epoch_samples(data.train, [source.index.num_samples for source in index.sources])


def training_samples(data: DataConfig) -> int:
    """Samples of an epoch: as ``data.num_train_samples`` says, else of the training set, which is opened then."""
    return data.num_train_samples or epoch_samples_of(data, open_train(data.model_copy(update={"levels": ()})))


def _train_lists(data: DataConfig) -> list[ClassList]:
    assert isinstance(data.train, tuple)
    lists = []
    for one in data.train:
        if isinstance(one.folder, Path) and not one.folder.is_dir():
            raise FileNotFoundError(f"data.train.{one.name}: shard folder {one.folder} does not exist")
        own = read_class_names(small_files_of(one.folder, data.shard_cache))
        lists.append(ClassList(f"data.train.{one.name}", own, one.classes or {}))
    return lists


def _val_set(
    name: str | None,
    folder: Path | Address,
    classes: Mapping[str, str | int],
    names: list[str],
    cache: CacheSettings | None,
) -> ValSet:
    found = ValSet(name, open_index(folder, "val", cache))
    own = read_class_names(found.index.folder)
    if not own and not classes:
        return found  # labels are the run's, as those of one validation set always are
    table = table_of(ClassList(found.key, own, classes), names)
    _check_labels(found.key, found.index, table)
    return found if table is None else ValSet(name, mixed([(name or "val", found.index)], [table]))


def _check_labels(key: str, index: ShardIndex, table: Table) -> None:
    """Raise ValueError if a sample has a label for which the run has none."""
    if table is None:
        return
    labels = np.unique(index.label)
    is_known = (labels >= 0) & (labels < len(table))
    is_known[is_known] = table[labels[is_known]] >= 0
    if not is_known.all():
        wrong = labels[~is_known].tolist()
        raise ValueError(
            f"{key}: images in {index.place} have label(s) {', '.join(map(str, wrong[:5]))}, which neither its "
            "dataset.json nor its classes bring to a class of the run; add them to classes"
        )
