"""The values for which a configuration may say ``auto``: looked up here, once, before anything else sees them.

From here on a configuration holds numbers: so do the run's folder, its checkpoints' identity and its exports.
"""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from pipeline.settings import OrAuto
from pipeline.shards.classes import read_class_names
from pipeline.storage.errors import StoreError
from pipeline.storage.small_files import small_files_of
from pipeline.yaml_file import ConfigError

AUTO = "auto"
# Key of the section data -> whether leaving it out means auto.
_KEYS = {
    name: mark.is_default
    for name, field in DataConfig.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, OrAuto)
}
AUTO_KEYS = tuple(f"data.{name}" for name in _KEYS)
_STATISTICS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
# In a preview without data: relative FLOPs depend on it from the fourth digit on.
_UNKNOWN_CLASSES = 1000


@dataclass(frozen=True)
class Weights:
    """``model.name`` and ``model.pretrained`` of a run."""

    name: str
    pretrained: str | None


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation, of red, green and blue as shares of 255, and who names them, in words."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    named_by: str


def without_autos(values: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A file's values with numbers for the autos of its section data, and the names of these keys.

    The numbers make the rest checkable; ``numbers_of`` has the right ones. Values of another form stay as they are.
    """
    data = values.get("data")
    if not isinstance(data, dict):
        return values, ()
    names = tuple(name for name, is_default in _KEYS.items() if data.get(name, AUTO if is_default else None) == AUTO)
    numbers = {"num_classes": _UNKNOWN_CLASSES, **_STATISTICS}
    return {**values, "data": {**data, **{name: numbers[name] for name in names}}}, names


def numbers_of(
    autos: Collection[str], data: DataConfig, weights: Weights, recorded: Mapping[str, Any], *, preview: bool = False
) -> dict[str, Any]:
    """What auto stands for, by key of the section data.

    Args:
        data: with any numbers in place of autos.
        recorded: by whole key, what the checkpoint has been trained with that the run goes on from. Means and standard
            deviations stay those, whatever auto stood for when it was written.
        preview: as for ``engine.config.load_config``.

    Raises:
        ConfigError: nobody says how many classes there are.
        ValueError, OSError: ``dataset.json``, the index or the weights' ``config.json`` cannot be read.
    """
    found: dict[str, Any] = {}
    if "num_classes" in autos:
        found["num_classes"] = _num_classes(data, preview=preview)
    asked = [name for name in _STATISTICS if name in autos and not preview]
    found |= {name: recorded[f"data.{name}"] for name in asked if f"data.{name}" in recorded}
    open_ones = [name for name in asked if name not in found]
    if open_ones and (own := statistics_of(weights)) is not None:
        found |= {name: getattr(own, name) for name in open_ones}
    return found


def _num_classes(data: DataConfig, *, preview: bool) -> int:
    if not isinstance(data.train, tuple):
        names = list[str]()
        with suppress(*([StoreError] if preview else [])):  # a preview needs no data
            names = read_class_names(small_files_of(data.train, data.shard_cache))
        if names:
            return len(names)
        if preview:
            return _UNKNOWN_CLASSES
    from pipeline.shards.data_sets import class_names_of, open_train  # here, as it brings Arrow with it

    with suppress(*([FileNotFoundError, StoreError] if preview else [])):
        if names := class_names_of(data):
            return len(names)
    if preview:
        return _UNKNOWN_CLASSES
    index = open_train(data)
    where = "dataset.json of any source" if isinstance(data.train, tuple) else f"{data.train}/dataset.json"
    raise ConfigError(
        f"data.num_classes is auto, but no classes are named in {where}, which tools.shards convert "
        f"writes; give their number: the labels of the training images suggest data.num_classes={1 + index.max_label}"
    )


def statistics_of(weights: Weights) -> Statistics | None:
    """What pretrained weights were trained with: by the config.json beside them, else by timm for the model's name.

    None where there are no weights, or nobody says.

    Raises:
        ValueError: the config.json beside the weights cannot be read.
    """
    source = weights.pretrained
    if source is None:
        return None
    if source != "timm":
        kind, _, folder = source.partition(":")
        path = (Path(folder) if kind == "local-dir" else Path(source).parent) / "config.json"
        if path.is_file() and (told := _told_by(path)) is not None:
            return told
    return _of_timm(weights.name)


def _of_timm(name: str) -> Statistics | None:
    import timm  # here, as it brings torch with it, which few that read a configuration need

    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # no such weights, which whoever builds the model will say
        return None
    return None if cfg is None else _statistics(cfg.mean, cfg.std, f"timm for {name}")


def _told_by(path: Path) -> Statistics | None:
    """As timm and exports describe a model; None where another program's file says nothing of the kind."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        described = description.get("pretrained_cfg", description)
        return _statistics(described.get("mean"), described.get("std"), str(path))
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}, beside the pretrained weights, cannot be read ({error}); mend it, or set data.mean and data.std"
        ) from None


def _statistics(mean: Any, std: Any, named_by: str) -> Statistics | None:
    for values in (mean, std):
        if not isinstance(values, list | tuple) or len(values) != len(IMAGENET_MEAN):
            return None
    return Statistics(tuple(map(float, mean)), tuple(map(float, std)), named_by)


def describe_statistics(data: DataConfig, weights: Weights) -> list[str]:
    """A line on whether mean and standard deviation are those of the pretrained weights; nothing without any."""
    own = None
    with suppress(ValueError):  # of a config.json that this run does not need
        own = statistics_of(weights)
    if own is None:
        return []
    here = f"data.mean {list(data.mean)} and data.std {list(data.std)}"
    if (own.mean, own.std) == (tuple(data.mean), tuple(data.std)):
        return [f"{here}: those of the pretrained weights, by {own.named_by}"]
    return [
        f"{here} are not those of the pretrained weights, {list(own.mean)} and {list(own.std)} by {own.named_by}; auto "
        "takes these"
    ]
