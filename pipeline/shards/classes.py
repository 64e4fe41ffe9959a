"""What the labels of shards say about their classes: their names, how often each occurs, and what is amiss."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # it brings Arrow with it, which those who only name classes do without
    from pipeline.shards.index import ShardIndex

_MOST_NAMED = 5


def readable(name: str) -> str:
    """A name that can be printed and drawn: bytes that are no UTF-8 stand in it as lone surrogates, which are spelt."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def read_class_names(folder: Path) -> list[str]:
    """The names that the conversion wrote beside the shards, readable, in label order; none where it did not.

    Raises ValueError where ``dataset.json`` cannot be read.
    """
    path = folder / "dataset.json"
    if not path.exists():
        return []
    try:
        names = json.loads(path.read_text(encoding="utf-8")).get("classes") or []
        return [readable(name) for name in names]
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None


def most_classes(num_samples: int) -> int:
    """How many classes labels may tell apart by number alone. Labels beyond are something else's numbers."""
    return max(100_000, num_samples)


def count_labels(index: "ShardIndex", num_classes: int = 0) -> npt.NDArray[np.int64] | None:
    """Samples of each label that are not excluded, int64 [highest label + 1, or num_classes where that is more].

    None where the labels go beyond ``most_classes``.
    """
    if index.max_label >= most_classes(index.num_samples):
        return None
    return np.bincount(np.delete(np.asarray(index.label), index.excluded), minlength=num_classes)


def describe_classes(
    train: "ShardIndex", held: Mapping[str, "ShardIndex"], names: Sequence[str], num_classes: int
) -> list[str]:
    """What a run should be told of its classes, a line each: outputs that stand for none, and classes without images.

    Args:
        held: its validation sets, by what they are to be called.
        names: of its classes, or none.
    """
    known = max(1 + train.max_label, *(1 + index.max_label for index in held.values()), len(names))
    lines = []
    if num_classes > known:
        lines.append(
            f"data.num_classes is {num_classes}, but the data have {known} class(es): {num_classes - known} output(s) "
            "of the classifier stand for none"
        )
    trained, counts = count_labels(train), {name: count_labels(index) for name, index in held.items()}
    told = {name: one.tolist() for name, one in counts.items() if one is not None}
    if trained is None or len(told) < len(counts):
        return lines
    return lines + describe_gaps(trained.tolist(), told, names)


def describe_gaps(train: Sequence[int], others: Mapping[str, Sequence[int]], names: Sequence[str] = ()) -> list[str]:
    """A line for each way in which classes lack images, nothing if all is well.

    Args:
        train: samples of each label in training.
        others: the same of other splits, by what they are to be called.
        names: of the classes, or none.
    """
    num_classes = max(map(len, (train, names, *others.values())))
    trained = _padded(train, num_classes)
    lines, is_missing = [], trained == 0
    for split, counts in others.items():
        held = _padded(counts, num_classes)
        is_missing &= held == 0
        if len(alone := np.flatnonzero((trained == 0) & (held > 0))):
            images = f"{held[alone].sum():,} image(s)"
            lines.append(f"{_classes(alone, names)} of {num_classes} in {split} ({images}), but never in training")
    if is_missing.any():
        lines.append(f"{_classes(np.flatnonzero(is_missing), names)} of {num_classes} without any image")
    return lines


def _padded(counts: Sequence[int], length: int) -> npt.NDArray[np.int64]:
    padded = np.zeros(length, dtype=np.int64)
    padded[: len(counts)] = counts
    return padded


def _classes(labels: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    """Such as ``2 classes (3 cat, 7)``."""
    shown = ", ".join(_class(label, names) for label in labels[:_MOST_NAMED].tolist())
    more = ", ..." if len(labels) > _MOST_NAMED else ""
    return f"{len(labels)} class{'es' if len(labels) > 1 else ''} ({shown}{more})"


def _class(label: int, names: Sequence[str]) -> str:
    name = readable(names[label]) if label < len(names) else ""
    return f"{label} {name}" if name not in ("", str(label)) else str(label)
