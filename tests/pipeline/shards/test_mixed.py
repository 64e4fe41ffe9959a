"""Several folders as one index: the same rows, files and errors as each has by itself."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.shard_files import write_shard
from pipeline.selection.maps import NoMapError, ScoreMaps, write_maps
from pipeline.shards.exclusion import ExcludedSample, add_samples, exclusion_path
from pipeline.shards.index import ShardIndex, StaleIndexError, build_index, open_index
from pipeline.shards.level import Level
from pipeline.shards.levels import open_with_levels
from pipeline.shards.mixed import MixedIndex, mixed
from pipeline.shards.reader import SampleReader

SHARDS = {"a": [[0, 1, 2], [2, 1]], "b": [[1, 0, 1, 0], [1, 1], [0]]}


def write_source(folder: Path, first: int) -> None:
    tars = [
        write_shard(folder / f"train-{number}.tar", labels, first + 10 * number)
        for number, labels in enumerate(SHARDS[folder.name])
    ]
    build_index(folder, "train", tars)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sources, of 5 and of 7 samples; of the second, sample 4 is excluded."""
    for first, name in ((0, "a"), (100, "b")):
        write_source(tmp_path / name, first)
    index = open_index(tmp_path / "b", "train")
    left_out = ExcludedSample(index.shards[1].name, index.key(4), "a test", 4)
    add_samples(exclusion_path(tmp_path / "b", "train"), index.fingerprint, [left_out])
    return tmp_path


def both(
    folder: Path, levels: tuple[int, ...] = (), table: list[int] | None = None
) -> tuple[MixedIndex, list[ShardIndex]]:
    each = [open_with_levels(folder / name, "train", levels) for name in SHARDS]
    second = None if table is None else np.array(table, dtype=np.int32)
    return mixed(list(zip(SHARDS, each, strict=True)), [None, second]), each


def test_rows_are_those_of_the_sources_one_behind_the_other(folder: Path) -> None:
    index, each = both(folder)
    for name in ("offset", "length", "label", "width", "height"):
        expected = np.concatenate([getattr(one, name) for one in each])
        np.testing.assert_array_equal(np.asarray(getattr(index, name)), expected)
        np.testing.assert_array_equal(getattr(index, name)[[11, 0, 5]], expected[[11, 0, 5]])
    assert [index.key(i) for i in range(12)] == [one.key(i) for one in each for i in range(len(one.shard))]
    assert index.shard_sizes.tolist() == [3, 2, 4, 1, 1]
    np.testing.assert_array_equal(index.shard[np.arange(12)], [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4])
    index.check(np.arange(12))


def test_what_a_source_excludes_has_no_place(folder: Path) -> None:
    index, _ = both(folder)
    assert index.num_samples == 11
    assert index.sample_ids(np.arange(11)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert index.source_numbers(np.array([4, 5, 11, 0])).tolist() == [0, 1, 1, 0]


def test_images_are_read_from_the_folder_that_they_lie_in(folder: Path) -> None:
    index, each = both(folder)
    with SampleReader(index) as reader:
        images = reader.read(np.array([11, 3, 6]))
    for image, (source, sample) in zip(images, [(1, 6), (0, 3), (1, 1)], strict=True):
        with SampleReader(each[source]) as alone:
            assert image.tobytes() == alone.read(np.array([sample]))[0].tobytes()
    assert str(folder / "b" / "train-2.tar") in index.describe(11)


def test_labels_are_the_runs(folder: Path) -> None:
    index, _ = both(folder, table=[7, 4])
    assert np.asarray(index.label).tolist() == [0, 1, 2, 2, 1, 4, 7, 4, 7, 4, 4, 7]
    assert (index.min_label, index.max_label) == (0, 7)
    os.utime(folder / "b" / "train-0.tar")  # so that its contents are looked at again, by its own labels
    with SampleReader(index) as reader:
        assert len(reader.read(np.array([5]))) == 1


def test_a_shard_that_is_written_anew_is_named_with_the_command_of_its_folder(folder: Path) -> None:
    index, _ = both(folder)
    write_shard(folder / "b" / "train-0.tar", [1, 0, 1, 0, 1], 300)
    with SampleReader(index) as reader, pytest.raises(StaleIndexError, match=rf"tools\.shards index {folder / 'b'}$"):
        reader.read(np.array([5]))


def test_the_fingerprint_tells_shards_names_and_tables_and_not_where_they_lie(folder: Path) -> None:
    index, each = both(folder)
    (folder / "elsewhere").mkdir()
    (folder / "a").rename(folder / "elsewhere" / "a")
    moved = open_index(folder / "elsewhere" / "a", "train")
    assert mixed([("a", moved), ("b", each[1])], [None, None]).fingerprint == index.fingerprint
    others = [
        mixed([("c", moved), ("b", each[1])], [None, None]),
        mixed([("a", moved), ("b", each[1])], [None, np.array([0, 1], dtype=np.int32)]),
        mixed([("b", each[1]), ("a", moved)], [None, None]),
    ]
    assert len({index.fingerprint, *(one.fingerprint for one in others)}) == 4


def test_files_of_all_levels_are_read_as_one_index_has_them(folder: Path) -> None:
    for name in SHARDS:
        made_from = build_index(folder / name, "train", sorted((folder / name).glob("*.tar"))).fingerprint
        exclusion_path(folder / name, "train").unlink(missing_ok=True)
        tars = [
            write_shard(folder / name / "level-64" / f"train-{number}.tar", labels, 500 + 10 * number)
            for number, labels in enumerate(SHARDS[name])
        ]
        build_index(folder / name / "level-64", "train", tars, level=Level(64, made_from))
    index, each = both(folder, (64,))
    with SampleReader(index) as reader:
        images = reader.read(np.arange(24))
        for level in range(2):
            alone = [(one, *one.levels)[level] for one in each]
            for sample in range(12):
                source, own = (0, sample) if sample < 5 else (1, sample - 5)
                with SampleReader(alone[source]) as single:
                    assert images[12 * level + sample].tobytes() == single.read(np.array([own]))[0].tobytes()
    os.utime(folder / "b" / "level-64" / "train-1.tar")
    with SampleReader(index) as reader:
        assert len(reader.read(np.array([12 + 9]))) == 1


def test_score_maps_of_all_sources_are_found_and_a_missing_one_is_named_with_its_folder(folder: Path) -> None:
    index, each = both(folder)
    scores = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
    first = 0
    for one in each:
        for shard in one.shards:
            part = np.ascontiguousarray(scores[first : first + shard.num_samples])
            write_maps(one.folder / shard.name, "mine", shard.digest, part, kind="contrast", made_by={}, unscored=[])
            first += shard.num_samples
    np.testing.assert_array_equal(ScoreMaps(index, "mine").grids(np.array([11, 0, 7])), scores[[11, 0, 7]])
    next((folder / "b").glob("*.map")).unlink()
    with pytest.raises(NoMapError, match=rf"{folder / 'b'} has no such score map.*score {folder / 'b'} "):
        ScoreMaps(index, "mine").fingerprint()


def test_columns_are_not_compared_as_if_they_were_objects(folder: Path) -> None:
    index, _ = both(folder)
    with pytest.raises(TypeError, match=r"np\.asarray"):
        _ = index.width == 12
    with pytest.raises(IndexError, match="rows are 0 to 11"):
        _ = index.width[[12]]
