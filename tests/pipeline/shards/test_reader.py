import gc
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.bad_images import LATER_DAMAGE, SOUND_OUTSIDE, encoded, overwrite, write_photo_shards
from benchmarks.shared.shard_files import image_bytes, write_shard
from pipeline.shards.index import ShardIndex, StaleIndexError, build_index
from pipeline.shards.reader import SampleReader


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    for number in range(4):
        write_shard(tmp_path / f"train-{number}.tar", [0, 1, 2], first=3 * number)
    return build_index(tmp_path, "train", tmp_path.glob("*.tar"))


def num_open_files() -> int:
    gc.collect()  # what other tests have left open goes now, and not while this one counts
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


def test_images_are_read_alike_one_by_one_and_together_whatever_else_is_held(index: ShardIndex) -> None:
    ids = np.array([3, 3, 11, 0, 7, 10])
    with SampleReader(index, max_open_shards=2) as narrow, SampleReader(index) as wide:
        held = [wide.read(ids) for _ in range(5)]
        one_by_one = [narrow.read(ids[row : row + 1])[0] for row in range(len(ids))]
        for images in (*held, narrow.read(ids)):
            assert [image.tobytes() for image in images] == [image.tobytes() for image in one_by_one]


def test_headers_are_looked_at_while_reading(tmp_path: Path) -> None:
    replaced = {3: SOUND_OUTSIDE["a GIF"], 7: SOUND_OUTSIDE["a truncated JPEG"], 20: encoded(2, "WEBP")}
    index = write_photo_shards(tmp_path, replaced)
    overwrite(index, 30, LATER_DAMAGE["an image of another size"])
    ids = np.array([0, 3, 7, 20, 30, 40])
    with SampleReader(index) as reader:
        reader.read(ids)  # here the changed shard is looked through
        images, is_sound = reader.read_checked(ids)
    # A truncated JPEG is sound by its header; of WebP more is known to who decodes it.
    assert is_sound == [True, False, True, False, False, True]
    assert [len(image) for image in images] == index.length[ids].tolist()


def test_nothing_is_sound_where_a_shard_was_touched_until_it_was_looked_through(tmp_path: Path) -> None:
    index = write_photo_shards(tmp_path)
    with SampleReader(index) as reader:
        assert reader.read_checked(np.arange(48))[1] == [True] * 48
        before = [image.tobytes() for image in reader.read(np.arange(48))]
        os.utime(tmp_path / "train-000001.tar")
        images, is_sound = reader.read_checked(np.arange(48))
        assert is_sound == [False] * 48
        assert [image.tobytes() for image in images] == before
        assert reader.read_checked(np.arange(48))[1] == [True] * 48


def test_the_first_of_several_samples_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    index = write_photo_shards(tmp_path)
    (tmp_path / "train-000000.tar").unlink()
    os.truncate(tmp_path / "train-000002.tar", 2048)
    with SampleReader(index) as reader:
        with pytest.raises(StaleIndexError, match=r"'00040' in train-000002\.tar"):
            reader.read(np.array([20, 40, 1]))
        with pytest.raises(FileNotFoundError, match=r"'00001' in train-000000\.tar"):
            reader.read(np.array([20, 1, 40]))


def test_no_images_are_read_for_no_ids(index: ShardIndex) -> None:
    with SampleReader(index) as reader:
        assert reader.read_checked(np.array([], dtype=np.int64)) == ([], [])


def test_a_large_batch_is_read_by_several_threads_as_a_small_one_by_one(tmp_path: Path) -> None:
    index = write_photo_shards(tmp_path)
    ids = np.random.default_rng(0).integers(0, 48, 201)
    with SampleReader(index) as reader:
        images, is_sound = reader.read_checked(ids)
        assert is_sound == [True] * len(ids)
        alone = [reader.read(np.array([sample_id]))[0].tobytes() for sample_id in range(48)]
        assert [image.tobytes() for image in images] == [alone[sample_id] for sample_id in ids]
        os.truncate(tmp_path / "train-000001.tar", int(index.offset[20]) + 10)
        with pytest.raises(StaleIndexError, match=r"'000\d\d' in train-000001\.tar .* ends after \d+ of them"):
            reader.read(ids)
