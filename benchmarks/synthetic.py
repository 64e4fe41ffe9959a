"""Data sets of any size for measurements: one that exists in arithmetic alone, and indexes as large as real ones."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.photographs import NUM_CLASSES, photograph_jpeg
from pipeline.shards.arrow_file import write_table
from pipeline.shards.index import build_index, index_path
from tools.shards.files import ShardWriter

_IMAGES_IN_A_TAR, _KEY_CHARS = 20, 10


@dataclass(frozen=True)
class SyntheticSamples:
    """So many samples of 500 x 375 pixels and label 0, in shards of about ten thousand."""

    num_samples: int
    shard_sizes: np.ndarray
    label: np.ndarray
    width: np.ndarray
    height: np.ndarray

    @classmethod
    def of(cls, num_samples: int) -> "SyntheticSamples":
        num_shards = max(10, num_samples // 10_000)
        sizes = np.full(num_shards, num_samples // num_shards, dtype=np.int64)
        columns = (np.broadcast_to(np.int32(value), (num_samples,)) for value in (0, 500, 375))
        return cls(num_samples, sizes, *columns)

    @property
    def levels(self) -> tuple[()]:
        return ()

    def sample_ids(self, positions: np.ndarray) -> np.ndarray:
        """Nothing is excluded: each sample has its own number's place."""
        return positions


def write_large_data_set(folder: Path, num_samples: int, num_shards: int) -> None:
    """Shards and indexes that look as large as they should: the shards are links to one tar of a few photographs.

    Every row of the training index leads to one of them, so that batches can be loaded. The validation index is that of
    one such tar.
    """
    folder.mkdir(parents=True)
    for split in ("val", "train"):
        writer = ShardWriter(folder, f"{split}-{0:06d}.tar")
        for number in range(_IMAGES_IN_A_TAR):
            label = number % NUM_CLASSES
            writer.add(f"{number:0{_KEY_CHARS}d}", (photograph_jpeg(number, label), "jpg", label))
        writer.finish()
        build_index(folder, split, [folder / writer.name])
    for number in range(1, num_shards):
        os.link(folder / f"train-{0:06d}.tar", folder / f"train-{number:06d}.tar")
    _enlarge_index(index_path(folder, "train"), num_samples, num_shards)


def _enlarge_index(path: Path, num_samples: int, num_shards: int) -> None:
    """Repeat an index's rows and its one shard."""
    with pa.ipc.open_file(path) as reader:
        small, schema = reader.get_batch(0), reader.schema
    numbers = np.arange(num_samples)
    samples_per_shard = num_samples // num_shards
    columns = [small.column(name).take(pa.array(numbers % small.num_rows)) for name in schema.names]
    columns[schema.get_field_index("shard")] = pa.array((numbers // samples_per_shard).astype(np.uint32))
    digits = numbers[:, None] // 10 ** np.arange(_KEY_CHARS - 1, -1, -1) % 10 + ord("0")
    ends = pa.py_buffer(np.arange(0, (num_samples + 1) * _KEY_CHARS, _KEY_CHARS))
    keys = pa.LargeStringArray.from_buffers(num_samples, ends, pa.py_buffer(digits.astype(np.uint8)))
    columns[schema.get_field_index("key")] = keys
    [(name, text)] = (schema.metadata or {}).items()
    facts = {key: value for key, value in json.loads(text).items() if key not in ("row_digests", "facts_digest")}
    [shard] = facts["shards"]
    facts["shards"] = [
        {**shard, "name": f"train-{number:06d}.tar", "num_samples": samples_per_shard} for number in range(num_shards)
    ]
    # Links change no time of writing, so the index still fits.
    table = pa.record_batch(columns, schema=schema)
    write_table(path, table, name, facts, [samples_per_shard] * num_shards)
