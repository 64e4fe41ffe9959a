"""What a run does about data that turns out to be bad while it goes on: record it, and end where it is too much."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from engine.command_line import STOPPED_EXIT_CODE
from engine.metrics import done_before, read_metrics
from engine.ranks.world import World, end_together
from pipeline.batch import Batch
from pipeline.config import DataConfig
from pipeline.files import write_atomically
from pipeline.graph.bad_samples import BadRow, BadSampleError
from pipeline.loader import PatchLoader
from pipeline.shards.index import ShardIndex, StaleIndexError
from pipeline.shards.mixed import MixedIndex
from pipeline.shards.units import UnreadableUnitsError
from pipeline.storage.errors import StoreError, StoreGoneError

BAD_DATA_EXIT_CODE = 3
# A launcher looks once a second which rank has ended, and takes over the exit code of the first it finds.
_SECONDS_BEFORE_FOLLOWING = 5.0


class DataError(Exception):
    """The run's data cannot be read on; the message is one line for people.

    Args:
        agreed: every rank raises it at the same place.
        code: what the process ends with.
    """

    def __init__(self, message: str, *, agreed: bool = False, code: int = BAD_DATA_EXIT_CODE) -> None:
        super().__init__(message)
        self.agreed, self.code = agreed, code


def read_batches(loader: PatchLoader) -> Iterator[Batch]:
    """The loader's batches.

    Raises:
        DataError: an image, a shard or a file of units that cannot be used, or the store that they lie in.
    """
    try:
        yield from loader
    except StoreGoneError as error:
        # Before its first step a rank has no batches left for a stop that all agree on.
        why = f"{error}; the same command goes on from the last checkpoint (exit code {STOPPED_EXIT_CODE})"
        raise DataError(why, code=STOPPED_EXIT_CODE) from error
    except (BadSampleError, StaleIndexError, StoreError, UnreadableUnitsError, OSError) as error:
        raise DataError(str(error)) from error


@contextmanager
def one_data_error(world: World) -> Iterator[None]:
    """Turn a DataError into one line and its exit code, 3 for bad data.

    Where one rank alone has met it, the others fail in their next exchange with that rank. They wait for a moment
    before they end, so that the launcher hears first of the rank that knows the cause.
    """
    try:
        yield
    except DataError as error:
        if error.agreed:
            end_together(world, str(error), error.code)
        where = "" if world.size == 1 else f"rank {world.rank}: "
        print(f"error: {where}{error}", file=sys.stderr, flush=True)
        sys.exit(error.code)
    except RuntimeError:
        if world.size > 1:
            time.sleep(_SECONDS_BEFORE_FOLLOWING)
        raise


class BadSampleLog:
    """``bad_samples.jsonl``: each bad sample once, at the step that met it first; written by the first rank.

    A resumed run drops what it will meet again, so the file says the same as that of a run that never stopped.

    Args:
        first_step: the step the run starts or goes on with.
        data: says whether there can be bad samples in a run that goes on, and how many.
    """

    def __init__(self, path: Path, first_step: int, data: DataConfig, world: World) -> None:
        self._path, self._data, self._world = path, data, world
        self._lines: list[dict[str, Any]] = []
        if world.is_first and path.exists():
            self._lines = [line for line in read_metrics(path) if done_before(line, first_step)]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in self._lines), sync=False)

    def record(
        self, bad: list[BadRow], index: ShardIndex, event: str, step: int | None = None, *, val: str | None = None
    ) -> int:
        """Take note of this rank's bad rows since the last call. Collective.

        Args:
            index: the data set they belong to.
            event: ``train`` or ``eval``, as in the metrics.
            step: steps done before an evaluation; the rows of training know their own.
            val: name of the validation set, where there are several.

        Returns:
            Number of bad rows on all ranks.

        Raises:
            DataError: on every rank, where more of the data set's samples are bad than allowed, or of one source's.
        """
        if self._data.on_bad_sample == "fail":
            return 0
        count = torch.tensor([len(bad)], device=self._world.device)
        dist.all_reduce(count)
        if not count.item():
            return 0
        gathered: list[list[BadRow]] | None = [[]] * self._world.size if self._world.is_first else None
        dist.gather_object(bad, gathered)
        problem: list[str | None] = [None]
        if gathered is not None:
            rows = sorted((one for part in gathered for one in part), key=lambda one: (one.step, one.row))
            problem[0] = self._append([_line(one, index, event, step, val) for one in rows], index, event, val)
        dist.broadcast_object_list(problem)
        if problem[0] is not None:
            raise DataError(problem[0], agreed=True)
        return int(count.item())

    def _append(self, lines: list[dict[str, Any]], index: ShardIndex, event: str, val: str | None) -> str | None:
        """Write those that are new. Returns what is wrong if there are too many of them now."""
        known = {_name(line) for line in self._lines}
        with self._path.open("a") as file:
            for line in lines:
                if _name(line) not in known:
                    known.add(_name(line))
                    self._lines.append(line)
                    file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        mine = [line for line in self._lines if line["event"] == event and line.get("val") == val]
        if event == "train" and isinstance(index, MixedIndex):
            each = [
                self._too_many([line for line in mine if line.get("source") == source.name], source.index)
                for source in index.sources
            ]
            return next((problem for problem in each if problem is not None), None)
        return self._too_many(mine, index)

    def _too_many(self, lines: list[dict[str, Any]], index: ShardIndex) -> str | None:
        """What is wrong if the bad samples of a folder, a line each, are too many."""
        num_bad, max_share = len(lines), self._data.max_bad_share
        if num_bad <= max_share * index.num_samples:
            return None
        last = lines[-1]
        return (
            f"{num_bad} of the {index.num_samples} samples in {index.place} ({index.split}) are bad so far "
            f"(a share of {num_bad / index.num_samples:.3g}), but data.max_bad_share is {max_share:g}; {self._path} "
            f"names them all; the last is sample {last['key']!r} in {last['shard']} at byte {last['offset']}: "
            f"{last['cause']}"
        )


def _name(line: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a bad sample from others."""
    return line["event"], line.get("val"), line.get("source"), line["shard"], line["offset"]


def _line(bad: BadRow, index: ShardIndex, event: str, step: int | None, val: str | None) -> dict[str, Any]:
    """Shards of one of several folders are named from there on, wherever it lies."""
    substitute, source, home = bad.substitute_id, None, ""
    if isinstance(index, MixedIndex):
        source = index.sources[int(index.source_numbers(np.array([bad.sample_id]))[0])]
        home = f"{source.index.folder.absolute()}/"
    return {
        "event": event,
        "step": bad.step if step is None else step,
        **({} if val is None else {"val": val}),
        **({"source": source.name} if event == "train" and source is not None else {}),
        "shard": bad.shard.removeprefix(home),
        "key": bad.key,
        "offset": bad.offset,
        "cause": bad.cause,
        "substitute_shard": None
        if substitute is None
        else index.shards[index.shard[substitute]].name.removeprefix(home),
        "substitute_key": None if substitute is None else index.key(substitute),
    }
