"""Samples that are known to be bad and left out by list, without rewriting a tar.

The list lies beside the index, ``train.exclude`` for ``train.index``, as JSON that people can read. It is tied to the
shards by the index's fingerprint, and carries a digest of what it holds; a list without one is taken as it is.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.files import write_atomically
from pipeline.told import tell_once

EXCLUSION_SUFFIX = ".exclude"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class ExcludedSample:
    """A sample and why it is left out. sample_id: its row in the index, None where the index does not hold it."""

    shard: str
    key: str
    reason: str
    sample_id: int | None


@dataclass(frozen=True)
class Exclusion:
    """The samples left out of one split. ``fingerprint``: that of the index whose rows the ids are."""

    fingerprint: str
    samples: tuple[ExcludedSample, ...]

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Their ids, int64, ascending, each once."""
        ids = {sample.sample_id for sample in self.samples if sample.sample_id is not None}
        return np.array(sorted(ids), dtype=np.int64)


def exclusion_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"{split}{EXCLUSION_SUFFIX}"


def read_exclusion(path: Path) -> Exclusion:
    """Raises ValueError where the file is not such a list."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != _FORMAT_VERSION:
            raise ValueError(f"format {content['format_version']}, but this program reads format {_FORMAT_VERSION}")
        samples = tuple(ExcludedSample(**sample) for sample in content["samples"])
        if not all(sample.sample_id is None or sample.sample_id >= 0 for sample in samples):
            raise ValueError("a sample_id is not a row number")
        exclusion = Exclusion(str(content["fingerprint"]), samples)
        if content.setdefault("digest") not in (None, _digest(exclusion)):
            raise ValueError("it is not as it was written; if that is meant, take its digest out")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable list of excluded samples ({type(error).__name__}: {error}); remove it, and "
            f"make it again with: python -m tools.shards verify {path.parent} --exclude"
        ) from None
    if content["digest"] is None:
        tell_once(f"{path}: this list of excluded samples has no digest, so it is not checked")
    return exclusion


def _digest(exclusion: Exclusion) -> str:
    facts = [exclusion.fingerprint, [asdict(sample) for sample in exclusion.samples]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def known_samples(path: Path, fingerprint: str) -> tuple[ExcludedSample, ...]:
    """What a list leaves out of the index with this fingerprint; nothing if there is none, or one for other shards."""
    if not path.is_file():
        return ()
    exclusion = read_exclusion(path)
    return exclusion.samples if exclusion.fingerprint == fingerprint else ()


def add_samples(path: Path, fingerprint: str, samples: Iterable[ExcludedSample]) -> Exclusion:
    """Puts samples on a list, which is begun anew where it was made for other shards. Returns all it holds."""
    known = known_samples(path, fingerprint)
    names = {(sample.shard, sample.key) for sample in known}
    new = dict.fromkeys(sample for sample in samples if (sample.shard, sample.key) not in names)
    exclusion = Exclusion(fingerprint, (*known, *new))
    _write(path, exclusion)
    return exclusion


def _write(path: Path, exclusion: Exclusion) -> None:
    """Replaces the list by a whole new one, a sample a line."""
    lines = ",\n  ".join(json.dumps(asdict(sample)) for sample in exclusion.samples)
    facts = {"format_version": _FORMAT_VERSION, "fingerprint": exclusion.fingerprint, "digest": _digest(exclusion)}
    head = json.dumps(facts)
    write_atomically(path, f'{head[:-1]}, "samples": [\n  {lines}\n]}}\n', sync=True)
