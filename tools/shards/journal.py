"""The record of a conversion under way: what was asked for, and every shard that is finished.

``conversion.jsonl`` lies beside the shards and is removed at the end. Its first line is the job, each further line a
finished shard with the position at which the next one begins, so that a conversion that was stopped, even by
``kill -9``, goes on behind its last whole shard and writes the same bytes as one that was not.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

JOURNAL_NAME = "conversion.jsonl"
_ABOUT = "about"
Rejected = dict[str, str]  # {"source": ..., "reason": ...}


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard. next_position: where the split goes on; rejected: images left out on the way to there.

    One of which all images were rejected has no samples, no bytes and no file.

    addressable: the tally of its images, None where they are stored as they come. reencoded: images that the loader
    could not have used as they came, by reason; None where none are counted. level: what became of the images, see
    ``levels.shard.LevelTally``; None where no level is made.
    """

    split: str
    name: str
    num_samples: int
    size_bytes: int
    sha256: str
    next_position: int
    rejected: list[Rejected]
    addressable: dict[str, Any] | None = None
    reencoded: dict[str, int] | None = None
    level: dict[str, Any] | None = None


class Journal:
    """Open for one conversion at a time: a second one that is started beside it is refused."""

    def __init__(
        self, folder: Path, job: dict[str, Any], name: str = JOURNAL_NAME, about: dict[str, Any] | None = None
    ) -> None:
        """Begins a journal or goes on with the one that is there.

        name: of a part's, where that is not ``conversion.jsonl``. about: kept beside the job, and not compared.
        Raises ValueError where it belongs to another job, where another conversion is writing it, or where one of
        its shards has gone.
        """
        self.path = folder / name
        self._file = open(self.path, "a+b")  # noqa: SIM115 (held open, and locked, until close)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(
                f"{folder}: another conversion is writing here; wait for it or choose another --out"
            ) from None
        try:
            self.shards = self._read(folder, job, about)
        except BaseException:
            self._file.close()
            raise

    def _read(self, folder: Path, job: dict[str, Any], about: dict[str, Any] | None) -> list[ShardRecord]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may have been cut by the kill
        if whole != content:
            self._file.truncate(len(whole))
        if not whole:
            self._append(job if about is None else {**job, _ABOUT: about})
            return []
        first, *lines = whole.decode().splitlines()
        started = {key: value for key, value in json.loads(first).items() if key != _ABOUT}
        if started != job:
            raise ValueError(
                f"{folder}: holds an unfinished conversion with other settings ({describe_difference(started, job)}); "
                "repeat its settings to finish it, or remove the folder"
            )
        records = [ShardRecord(**json.loads(line)) for line in lines]
        for record in records:
            path = folder / record.name
            if not record.num_samples:  # which leaves no file
                continue
            if not path.is_file() or path.stat().st_size != record.size_bytes:
                raise ValueError(
                    f"{path}: was finished by the unfinished conversion here, but is no longer as it was; "
                    "remove the folder and convert again"
                )
        return records

    def add(self, record: ShardRecord) -> None:
        self._append(asdict(record))
        self.shards.append(record)

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """At the end of a conversion, when nothing is left to go on with."""
        self.path.unlink()
        self.close()


def part_journals(folder: Path) -> list[Path]:
    """The journals of a conversion's parts, in their order."""
    return sorted(folder.glob("conversion-*-of-*.jsonl"))


def read_head(path: Path) -> dict[str, Any] | None:
    """The first line of a journal, with what it is ``about``; None where it is not written yet."""
    with open(path, "rb") as file:
        line = file.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def describe_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs between two jobs, in words."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    special = {"fingerprint": "the source's images or labels", "keys": "an earlier version numbered samples otherwise"}
    return ", ".join(special.get(name) or f"{name}: {old.get(name)}, now {new.get(name)}" for name in names)
