"""What to predict on: image files and folders of them, or a split of shards."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.evaluation.image_files import laid_into_shards
from engine.evaluation.inference import Answers, Classifier
from pipeline.selection.config import SelectionConfig
from pipeline.selection.maps import ScoreMaps
from pipeline.shards.classes import read_class_names, readable
from pipeline.shards.index import INDEX_SUFFIX, ShardIndex, open_index
from tools.shards.images import Encoding
from tools.shards.sources.image_folder import IMAGE_SUFFIXES
from tools.shards.sources.junk import junk_kind
from tools.shards.sources.source import FileReader
from tools.shards.workers import Prepared, PreparedImage, prepare_in_order

_BATCHES_AT_A_TIME = 8
_MOST_BYTES_AT_A_TIME = 2**28


@dataclass(frozen=True)
class Asked:
    """How a model is to look at images: share of the patches, rule, images per forward pass."""

    keep_rate: float
    rule: SelectionConfig
    batch_size: int


@dataclass(frozen=True)
class Unreadable:
    """An image without an answer."""

    key: str
    reason: str


@dataclass(frozen=True)
class Answer:
    """What a model says of one image.

    Attributes:
        key: the file's path, or the sample's key.
        best: labels with their probabilities, the likeliest first.
        label: as the shards name it; None where nobody knows it.
    """

    key: str
    best: tuple[tuple[int, float], ...]
    label: str | None = None


@dataclass(frozen=True)
class Files:
    """Image files in the order in which they are looked at. ``others``: files in folders that are none by name."""

    paths: list[str]
    others: list[str]

    @property
    def num_images(self) -> int:
        return len(self.paths)

    def answers(self, classifier: Classifier, asked: Asked, top: int) -> Iterator[Answer | Unreadable]:
        """An answer for each file, or why there is none.

        Raises:
            OSError: the decoder cannot work, whatever the files, or there is no room for temporary files.
        """
        read = FileReader(Path(), self.paths, [0] * len(self.paths))
        # As a conversion would store them: what it would encode anew is encoded anew here.
        prepared = prepare_in_order(read, np.arange(len(self.paths)), Encoding(), num_classes=1, workers=1)
        num_answered = 0
        for part in _parts(zip(self.paths, prepared, strict=True), asked.batch_size * _BATCHES_AT_A_TIME):
            sound = [(path, one.data) for path, one in part if isinstance(one, PreparedImage)]
            yield from (Unreadable(path, one) for path, one in part if isinstance(one, str))
            if not sound:
                continue
            with laid_into_shards([data for _, data in sound]) as index:
                found = classifier.answers(
                    index, asked.keep_rate, asked.rule, batch_size=asked.batch_size, first_row=num_answered
                )
                for some in found:
                    yield from (Unreadable(sound[row.sample_id][0], row.cause) for row in some.bad)
                    yield from _best(some, [sound[i][0] for i in some.sample_ids], [None] * len(some.sample_ids), top)
            num_answered += len(sound)


@dataclass(frozen=True)
class Shards:
    """A split of shards. ``names``: of its labels."""

    index: ShardIndex
    names: list[str]

    @property
    def num_images(self) -> int:
        return self.index.num_samples

    def answers(self, classifier: Classifier, asked: Asked, top: int) -> Iterator[Answer | Unreadable]:
        """An answer for each sample that is not excluded, or why there is none.

        Raises:
            BadSampleError, StaleIndexError, UnreadableUnitsError, OSError: as ``Classifier.answers``.
        """
        for some in classifier.answers(self.index, asked.keep_rate, asked.rule, batch_size=asked.batch_size):
            yield from (Unreadable(f"{row.key} in {row.shard}", row.cause) for row in some.bad)
            labels = [self._name(int(label)) for label in self.index.label[some.sample_ids]]
            yield from _best(some, [readable(self.index.key(i)) for i in some.sample_ids], labels, top)

    def _name(self, label: int) -> str:
        return self.names[label] if 0 <= label < len(self.names) else str(label)


def open_images(places: Sequence[Path], split: str | None, model_names: list[str] | None) -> Files | Shards:
    """What the command line names.

    Args:
        split: of shards; None: val.
        model_names: of the model's classes, for labels of shards that come without names.

    Raises:
        ValueError, OSError: a place that is not there or holds no image, or shards that cannot be opened.
    """
    shards = [place for place in places if _holds_shards(place)]
    if shards and len(places) > 1:
        raise ValueError(f"{shards[0]} holds shards, which are looked at alone; name one folder of shards, or images")
    if shards:
        index = open_index(shards[0], split or "val")
        # A model without names of its classes counts them, and so are the labels counted then.
        return Shards(index, [] if model_names is None else read_class_names(index.folder) or model_names)
    if split is not None:
        raise ValueError(f"--split {split} is for shards, and {places[0]} is no folder of shards; leave it out")
    paths, others = list[str](), list[str]()
    for place in places:
        if place.is_dir():
            for found in _files_below(place):
                (paths if found.lower().endswith(IMAGE_SUFFIXES) else others).append(found)
        elif place.suffix == ".tar":
            raise ValueError(f"{place} is a shard; name its folder, and the split with --split")
        elif place.exists():
            paths.append(str(place))
        else:
            raise FileNotFoundError(f"no such file or folder: {place}")
    if not paths:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"{places[0]}: no images there, of {len(others)} file(s); images are files called {kinds}")
    return Files(paths, others)


def check_rule(rule: SelectionConfig, images: Files | Shards) -> None:
    """Raise ValueError or OSError if a rule looks at score maps and these images have none."""
    if rule.map is None:
        return
    if isinstance(images, Shards):
        ScoreMaps(images.index, rule.map).fingerprint()
        return
    raise ValueError(
        f"the rule map:{rule.map} looks at score maps, which lie beside shards and not beside image files: give "
        "another --rule, or --keep-rate 1, or make shards of the files and score them (docs/score-maps.md)"
    )


def _holds_shards(place: Path) -> bool:
    return place.is_dir() and any(any(place.glob(f"*{suffix}")) for suffix in (".tar", INDEX_SUFFIX))


def _files_below(folder: Path) -> list[str]:
    """Every file that is no junk, in order."""
    found = []
    for top, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not junk_kind(name)]
        found += [os.path.join(top, name) for name in names if not junk_kind(name)]
    return sorted(found)


def _parts(images: Iterator[tuple[str, Prepared]], size: int) -> Iterator[list[tuple[str, Prepared]]]:
    """The images in their order, some at a time: as many as this, or fewer where they are large."""
    part: list[tuple[str, Prepared]] = []
    num_bytes = 0
    for path, image in images:
        part.append((path, image))
        num_bytes += len(image.data) if isinstance(image, PreparedImage) else 0
        if len(part) == size or num_bytes >= _MOST_BYTES_AT_A_TIME:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part


def _best(answers: Answers, keys: list[str], labels: Sequence[str | None], top: int) -> Iterator[Answer]:
    found = answers.logits.softmax(1).topk(min(top, answers.logits.shape[1]))
    for key, label, classes, shares in zip(keys, labels, found.indices.tolist(), found.values.tolist(), strict=True):
        yield Answer(readable(key), tuple(zip(classes, shares, strict=True)), label)
