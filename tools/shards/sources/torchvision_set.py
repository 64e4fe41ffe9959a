"""A data set of torchvision, downloaded if need be."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tools.shards.sources.source import RawImage, Source, SourceKind, SourceOptions, SourceSplit


@dataclass(frozen=True)
class _TorchvisionReader:
    dataset: Any

    def __call__(self, position: int) -> tuple[RawImage, int]:
        samples = getattr(self.dataset, "samples", None)
        if samples is not None and isinstance(samples[position][0], str | os.PathLike):
            return Path(samples[position][0]).read_bytes(), samples[position][1]  # the file as it is, undecoded
        image, label = self.dataset[position]
        if not isinstance(image, Image.Image):
            raise ValueError(f"gives {type(image).__name__} for an image")
        try:
            return image, int(label)
        except (TypeError, ValueError):
            raise ValueError(f"gives {label!r} for a label, not an integer") from None


def _open(name: str, root: Path, options: SourceOptions) -> Source:
    from torchvision import datasets  # takes seconds to import, and only this source needs it

    found = getattr(datasets, name, None)
    if not inspect.isclass(found):
        raise ValueError(f"torchvision.datasets has no '{name}'; see its documentation for the names")
    maker: Callable[..., Any] = found
    parameters = inspect.signature(maker).parameters
    settings: dict[str, Any] = {}
    if "root" in parameters:
        settings["root"] = str(root)
    if "download" in parameters:
        settings["download"] = True
    made: dict[str, Any] = {}
    try:
        if "train" in parameters:
            made = {"train": maker(train=True, **settings), "val": maker(train=False, **settings)}
        elif "split" in parameters:
            made["train"] = maker(split="train", **settings)
            for split in ("val", "test"):
                try:
                    made[split] = maker(split=split, **settings)
                except ValueError:
                    continue  # this data set has no split of that name
        else:
            made["train"] = maker(**settings)
    except (RuntimeError, TypeError, OSError, ImportError) as error:
        raise ValueError(f"torchvision:{name} cannot be opened under {root}: {error}") from error
    splits = {}
    for split, dataset in made.items():
        names = [f"{name}/{split}/{number}" for number in range(len(dataset))]
        splits[split] = SourceSplit(names, _TorchvisionReader(dataset))
    classes = getattr(made["train"], "classes", None) or []
    # ImageNet's classes are tuples of synonyms.
    return Source([entry if isinstance(entry, str) else ", ".join(entry) for entry in classes], splits)


SOURCE = SourceKind("torchvision", "NAME", _open, order=50)
