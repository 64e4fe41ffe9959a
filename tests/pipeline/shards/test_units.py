"""Files of units that are damaged or made by somebody else: what they cannot say is an error that names them."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.shared.bad_images import write_photo_shards
from pipeline.shards.index import ShardIndex
from pipeline.shards.units import UnreadableUnitsError, open_units, units_path
from tools.shards.units_files import write_units_files


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    index = write_photo_shards(tmp_path, num_samples=6, addressable=True)
    write_units_files([index])
    return index


def path_of(index: ShardIndex) -> Path:
    return units_path(index.folder / index.shards[0].name)


def rewrite(index: ShardIndex, columns: list[pa.Array], **metadata: object) -> None:
    """The file of the first shard with other columns, as any program may write it."""
    told = {"format_version": 1, "shard": "train-000000.tar", "digest": index.shards[0].digest} | metadata
    schema = pa.schema([("header_bytes", columns[0].type), ("lengths", columns[1].type)])
    schema = schema.with_metadata({b"units": json.dumps(told).encode()})
    with pa.ipc.new_file(path_of(index), schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def lists(starts: list[int], values: list[int | None]) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), pa.array(values, pa.uint16()))


HEADERS = pa.array([600, 600], pa.uint32())
FINE = lists([0, 2, 4], [9, 9, 9, 9])


def test_a_file_made_by_another_program_is_read(index: ShardIndex) -> None:
    rewrite(index, [HEADERS, FINE])
    units = open_units(index.folder, index.shards[0])
    assert units is not None
    assert (units.header_bytes.tolist(), units.starts.tolist()) == ([600, 600], [0, 2, 4])


@pytest.mark.parametrize(
    ("columns", "cause"),
    [
        ([pa.array([600, None], pa.uint32()), FINE], "some of its values are missing"),
        ([HEADERS, lists([0, 2, 4], [9, 9, None, 9])], "some of its values are missing"),
        ([HEADERS, pa.array([[9], None], pa.large_list(pa.uint16()))], "some of its values are missing"),
        ([HEADERS[:1], lists([0, 2], [9, 9])], "it has 1 rows, but should have 2"),
        ([pa.array([600, 600], pa.int64()), FINE], "its columns are not those of such a file"),
    ],
    ids=["no header", "no length", "no row", "rows", "types"],
)
def test_what_cannot_be_units_is_an_error_that_names_the_file(
    index: ShardIndex, columns: list[pa.Array], cause: str
) -> None:
    rewrite(index, columns)
    with pytest.raises(UnreadableUnitsError, match=cause) as caught:
        open_units(index.folder, index.shards[0])
    assert str(path_of(index)) in str(caught.value)
    assert "python -m tools.shards units" in str(caught.value)


def test_a_file_that_is_cut_short_while_it_is_open_is_an_error_and_one_that_is_replaced_is_none(
    index: ShardIndex,
) -> None:
    units = open_units(index.folder, index.shards[0])
    assert units is not None
    units.check_whole()
    other = path_of(index).with_suffix(".tmp")
    other.write_bytes(b"another file")
    other.rename(path_of(index))
    units.check_whole()
    write_units_files([index])
    units = open_units(index.folder, index.shards[0])
    assert units is not None
    os.truncate(path_of(index), 100)
    with pytest.raises(
        UnreadableUnitsError, match=r"train-000000\.units: was cut short while it was open, from \d+ to 100"
    ):
        units.check_whole()


@pytest.mark.parametrize("starts", [[0, 2, 400], [2, 0, 4], [-8, 2, 4], [0, 2**40, 4]], ids=str)
def test_starts_that_lead_out_of_the_lengths_are_an_error(index: ShardIndex, starts: list[int]) -> None:
    rewrite(index, [HEADERS, FINE])
    content, sound = path_of(index).read_bytes(), np.array([0, 2, 4], np.int64).tobytes()
    assert content.count(sound) == 1
    path_of(index).write_bytes(content.replace(sound, np.array(starts, np.int64).tobytes()))
    with pytest.raises(UnreadableUnitsError, match=r"train-000000\.units: not a readable file of units"):
        open_units(index.folder, index.shards[0])


def test_any_bit_that_is_flipped_gives_units_or_an_error_that_names_the_file(index: ShardIndex) -> None:
    """Units that are wrong are found out where the image is read."""
    sound, random, named = path_of(index).read_bytes(), np.random.default_rng(0), str(path_of(index))
    messages: list[str] = []
    for at in random.integers(len(sound), size=300).tolist():
        damaged = bytearray(sound)
        damaged[at] ^= 1 << int(random.integers(8))
        path_of(index).write_bytes(bytes(damaged))
        try:
            units = open_units(index.folder, index.shards[0])
        except UnreadableUnitsError as error:
            units, messages = None, [*messages, str(error)]
        if units is not None:
            assert units.starts[0] >= 0
            assert (np.diff(units.starts) >= 0).all()
            assert units.starts[-1] <= len(units.lengths)
    assert messages
    assert all(named in message for message in messages)
