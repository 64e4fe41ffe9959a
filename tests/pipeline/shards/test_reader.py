import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.shard_files import image_bytes, write_shard
from pipeline.shards.index import ShardIndex, StaleIndexError, build_index
from pipeline.shards.reader import SampleReader


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    for number in range(4):
        write_shard(tmp_path / f"train-{number}.tar", [0, 1, 2], first=3 * number)
    return build_index(tmp_path, "train", tmp_path.glob("*.tar"))


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_bytes_come_back_in_the_order_asked_for_with_repeats(index: ShardIndex) -> None:
    ids = np.array([11, 0, 5, 5, 7, 0])
    with SampleReader(index) as reader:
        images = reader.read(ids)
    assert [image.dtype for image in images] == [np.uint8] * len(ids)
    assert [image.tobytes() for image in images] == [image_bytes(i, 12 + i) for i in ids]


def test_no_more_shards_are_open_than_allowed_and_none_after_close(index: ShardIndex) -> None:
    before = num_open_files()
    reader = SampleReader(index, max_open_shards=2)
    for sample_id in (0, 3, 6, 9, 0, 4):
        (image,) = reader.read(np.array([sample_id]))
        assert image.tobytes() == image_bytes(sample_id, 12 + sample_id)
        assert num_open_files() <= before + 2
    reader.close()
    assert num_open_files() == before
    assert len(reader.read(np.array([1]))) == 1
    reader.close()


def test_a_missing_shard_is_named_with_key_and_offset(index: ShardIndex) -> None:
    (index.folder / "train-2.tar").unlink()
    with SampleReader(index) as reader:
        reader.read(np.array([0, 5, 9]))
        with pytest.raises(FileNotFoundError, match=r"sample 'sample00007' in train-2\.tar at byte \d+"):
            reader.read(np.array([7]))


def test_a_shard_of_another_size_is_refused_when_it_is_opened(index: ShardIndex) -> None:
    os.truncate(index.folder / "train-1.tar", 2048)
    with (
        SampleReader(index) as reader,
        pytest.raises(StaleIndexError, match=r"'sample00003' in train-1\.tar .* has 2048 bytes, but had 10240"),
    ):
        reader.read(np.array([3]))


def test_a_shard_that_shrinks_while_open_raises_instead_of_ending_the_process(index: ShardIndex) -> None:
    with SampleReader(index) as reader:
        reader.read(np.array([0]))
        os.truncate(index.folder / "train-0.tar", int(index.offset[2]) + 10)
        with pytest.raises(StaleIndexError, match=r"sample00002' in train-0\.tar .* ends after 10 of them"):
            reader.read(np.array([2]))


def test_ids_outside_of_the_index_and_a_useless_limit_are_refused(index: ShardIndex) -> None:
    with SampleReader(index) as reader:
        for sample_id in (-1, 12):
            with pytest.raises(IndexError, match="ids 0 to 11"):
                reader.read(np.array([sample_id]))
    with pytest.raises(ValueError, match="at least one shard"):
        SampleReader(index, max_open_shards=0)
