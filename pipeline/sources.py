"""The settings of data that come from several folders: the sources of training, and named validation sets."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidatorFunctionWrapHandler

from pipeline.addresses import Address, Place
from pipeline.settings import Settings

SHARES = ("weight", "share", "repeat")  # the ways to say how much of the training a source is
_NEARLY_ONE = Fraction(1, 10**6)

MixPer = Literal["batch", "epoch"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of data: it takes up to 100 letters, digits, -, _ and ., and begins with one of the "
            "first two"
        )
    return name


Name = Annotated[str, AfterValidator(_check_name)]
Label = Annotated[int, Field(ge=0, le=10**8)]


def _keys_as_text(value: Any) -> Any:
    """JSON and checkpoints, which keep configurations, have no other keys."""
    is_label = isinstance(value, dict) and all(type(key) in (int, str) for key in value)
    return {str(key): one for key, one in value.items()} if is_label else value


Classes = Annotated[dict[str, Label | str], BeforeValidator(_keys_as_text)]
_CLASSES = (
    "what the set's classes are in the run, by name or else by label on both sides, such as {sneaker: shoe, 7: shoe}; "
    "those that are not named here go by their names in dataset.json. null: all do"
)


class SourceConfig(Settings):
    """One of several folders to train on, with exactly one of ``weight``, ``share`` and ``repeat``: all the same."""

    name: Name = Field(description="what metrics and messages call it; its order of samples follows from it")
    folder: Place = Field(description="folder of training shards and their index, or its address")
    weight: float | None = Field(
        None, gt=0, le=1e9, description="its part of the rows, against the other weights, whatever its size"
    )
    share: float | None = Field(None, gt=0, le=1, description="its share of the rows; all shares sum to 1")
    repeat: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="passes over it in an epoch: 1 as often as it is, 2 twice, 0.5 every other epoch",
    )
    classes: Classes | None = Field(None, description=_CLASSES)


class ValSetConfig(Settings):
    """One of several validation sets. Each is evaluated by itself; where one result counts, it is that of the first."""

    name: Name = Field(description="what metrics and tables call it")
    folder: Place = Field(description="folder of validation shards and their index, or its address")
    classes: Classes | None = Field(None, description=_CLASSES)


Sources = tuple[SourceConfig, ...]
ValSets = tuple[ValSetConfig, ...]
_FOLDER: TypeAdapter[Path | Address] = TypeAdapter(Place)
_SOURCES, _VAL_SETS = TypeAdapter(Sources), TypeAdapter(ValSets)


def train_sources(value: Any, _: ValidatorFunctionWrapHandler) -> Path | Address | Sources:
    """What ``data.train`` holds: a folder, or a list of sources. A fault of a list speaks of the entry it is in."""
    if not isinstance(value, list | tuple):
        return _FOLDER.validate_python(value)
    found = _SOURCES.validate_python(value)
    _check_names([one.name for one in found])
    ways = [tuple(way for way in SHARES if getattr(one, way) is not None) for one in found]
    if any(len(given) != 1 for given in ways) or len(set(ways)) > 1:
        told = ", ".join(f"{one.name}: {' and '.join(given) or 'none'}" for one, given in zip(found, ways, strict=True))
        raise ValueError(
            f"every source has exactly one of {', '.join(SHARES)}, and all have the same one; got {told}. To train on "
            "each as often as it is, give all of them repeat: 1"
        )
    if ways[0] == ("share",) and abs((total := _exact(found, "share")[1]) - 1) > _NEARLY_ONE:
        raise ValueError(f"the shares sum to {float(total):g} and not to 1; correct them, or name them weight")
    return found


def val_sets(value: Any, _: ValidatorFunctionWrapHandler) -> Path | Address | ValSets:
    """What ``data.val`` holds: a folder, or a list of named sets."""
    if not isinstance(value, list | tuple):
        return _FOLDER.validate_python(value)
    found = _VAL_SETS.validate_python(value)
    _check_names([one.name for one in found])
    return found


def named(value: Path | Address | Sources | ValSets, key: str) -> dict[str, Path | Address]:
    """The folders of ``data.train`` or ``data.val`` by what messages call them: the key, or it and the entry's name."""
    return {f"{key}.{one.name}": one.folder for one in value} if isinstance(value, tuple) else {key: value}


def check_stores(
    train: Path | Address | Sources, val: Path | Address | ValSets, levels: Sequence[int], cache_folder: Path | None
) -> None:
    """Raise ValueError if shards in a store are to be read as they cannot be."""
    for key, folder in named(train, "train").items():
        if isinstance(folder, Address) and levels:
            raise ValueError(f"levels are read from a disk, but {key} is {folder}; leave levels out, or copy the set")
    for key, folder in (named(train, "train") | named(val, "val")).items():
        if isinstance(folder, Address) and cache_folder is None:
            raise ValueError(f"{key} is {folder}; set cache_folder to a folder on a disk of each host")


def check_mixing(train: Path | Address | Sources, mix_per: MixPer, shuffle: str, times: Mapping[str, int]) -> None:
    """Raise ValueError if other keys do not fit ``train``. times: how often some show an image, by key."""
    if not isinstance(train, tuple):
        if mix_per != "batch":
            raise ValueError(f"mix_per {mix_per} is of several sources, and train is one folder; leave it out")
        return
    if mix_per == "epoch" and shuffle == "window":
        raise ValueError(
            "mix_per: epoch takes samples from all over the sources, which shuffle: window is to spare; choose "
            "mix_per: batch or shuffle: global"
        )
    for key, number in times.items():
        if number > 1:
            raise ValueError(
                f"{key} {number} shows an image several times, so that batches would not have the sources' stated "
                "shares; set it to 1, or let train be one folder"
            )


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ValueError("a list of folders names at least one; give one, or the folder itself in place of the list")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"every entry has a name of its own, but {', '.join(twice)} stands more than once")


def shares_of(sources: Sources, sizes: Sequence[int]) -> tuple[Fraction, ...]:
    """Each source's exact share of the rows; they sum to 1. sizes: the samples in each."""
    way = next(way for way in SHARES if getattr(sources[0], way) is not None)
    values, total = _exact(sources, way)
    if way == "repeat":
        values = [value * size for value, size in zip(values, sizes, strict=True)]
        total = sum(values, Fraction(0))
    return tuple(value / total for value in values)


def epoch_samples(sources: Sources, sizes: Sequence[int]) -> int:
    """How many samples an epoch is: ``repeat`` passes over each source, or as many as all sources hold together."""
    if sources[0].repeat is None:
        return sum(sizes)
    return int(sum(value * size for value, size in zip(_exact(sources, "repeat")[0], sizes, strict=True)))


def _exact(sources: Sources, way: str) -> tuple[list[Fraction], Fraction]:
    """The numbers as they were written, and their sum."""
    values = [Fraction(repr(getattr(one, way))) for one in sources]
    return values, sum(values, Fraction(0))


def without_folders(dumped: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A list of sources or sets, as a configuration is written, without where they lie, which decides nothing."""
    return [{key: value for key, value in one.items() if key != "folder" and value is not None} for one in dumped]
