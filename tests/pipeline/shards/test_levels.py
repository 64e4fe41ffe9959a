import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.shard_files import write_shard
from pipeline.shards.index import ShardIndex, StaleIndexError, build_index, open_index
from pipeline.shards.level import Level
from pipeline.shards.levels import list_levels, open_with_levels
from pipeline.shards.reader import SampleReader

SHARDS = {"train-0.tar": [0, 1, 2], "train-1.tar": [], "train-2.tar": [1, 2]}


def write_level(folder: Path, pixels: int, made_from: str, first: int) -> ShardIndex:
    """Stands in for a level: other images under the same names are told apart by their sizes."""
    tars = []
    for number, (name, labels) in enumerate(SHARDS.items()):
        if labels:
            tars.append(write_shard(folder / f"level-{pixels}" / name, labels, first + 10 * number))
        else:
            tars.append(folder / f"level-{pixels}" / name)
            shutil.copyfile(folder / name, tars[-1])
    return build_index(folder / f"level-{pixels}", "train", tars, level=Level(pixels, made_from))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards, one of them empty, with two levels."""
    tars = [write_shard(tmp_path / name, labels, 10 * number) for number, (name, labels) in enumerate(SHARDS.items())]
    index = build_index(tmp_path, "train", tars)
    for pixels, first in ((256, 100), (64, 200)):
        write_level(tmp_path, pixels, index.fingerprint, first)
    return tmp_path


def test_files_of_all_levels_are_read_as_one_index_has_them(folder: Path) -> None:
    index = open_with_levels(folder, "train", (256, 64))
    assert [one.folder.name for one in index.levels] == ["level-256", "level-64"]
    assert index.num_samples == 5
    ids = np.array([14, 0, 7, 3, 9, 4, 10, 7])
    with SampleReader(index) as reader:
        images = reader.read(ids)
        again = reader.read(ids[3:4])
    for file, image in zip(ids.tolist(), images, strict=True):
        level, sample = divmod(file, 5)
        one = (index, *index.levels)[level]
        with SampleReader(open_index(one.folder, "train")) as alone:
            assert image.tobytes() == alone.read(np.array([sample]))[0].tobytes()
        assert index.files.describe(file).endswith(f"at byte {one.offset[sample]}")
        assert (index.files.width[file], index.files.label[file]) == (one.width[sample], one.label[sample])
    assert again[0].tobytes() == images[3].tobytes()
    assert "level-64/train-2.tar" in index.files.describe(14)
    np.testing.assert_array_equal(
        np.asarray(index.files.height), np.concatenate([one.height for one in (index, *index.levels)])
    )


def test_an_index_without_levels_is_its_own_files(folder: Path) -> None:
    index = open_with_levels(folder, "train", ())
    assert index.files is not None
    assert index.levels == ()
    assert index.fingerprint == open_index(folder, "train").fingerprint == index.files.fingerprint
    assert list_levels(folder) == [256, 64]


def test_what_lies_behind_the_last_file_is_refused(folder: Path) -> None:
    index = open_with_levels(folder, "train", (256,))
    with SampleReader(index) as reader, pytest.raises(IndexError, match="0 to 9"):
        reader.read(np.array([10]))
    with pytest.raises(IndexError, match="0 to 9"):
        index.files.width[np.array([3, 10])]


def test_levels_are_part_of_the_fingerprint(folder: Path) -> None:
    prints = {open_with_levels(folder, "train", levels).fingerprint for levels in ((), (256,), (64,), (256, 64))}
    assert len(prints) == 4


def test_a_level_that_is_not_there_is_named_with_the_command_that_makes_it(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no level 128 .* levels there: 256, 64; .*resize-levels .* --levels 128"
    ):
        open_with_levels(folder, "train", (256, 128))


def test_a_level_of_other_shards_is_refused(folder: Path) -> None:
    write_shard(folder / "train-2.tar", [2, 2], 20)
    build_index(folder, "train", sorted(folder.glob("*.tar")))
    with pytest.raises(StaleIndexError, match=r"level-256: was made from other shards .*rm -r .*--levels 256"):
        open_with_levels(folder, "train", (256,))


def test_a_level_under_another_name_is_refused(folder: Path) -> None:
    (folder / "level-64").rename(folder / "level-32")
    with pytest.raises(ValueError, match="is that of level 64, not of level 32"):
        open_with_levels(folder, "train", (32,))
    build_index(folder / "level-32", "train", sorted((folder / "level-32").glob("*.tar")))
    with pytest.raises(ValueError, match="is not that of a level, not of level 32"):
        open_with_levels(folder, "train", (32,))


def test_a_changed_shard_of_a_level_is_told_with_the_way_to_make_it_anew(folder: Path) -> None:
    index = open_with_levels(folder, "train", (64,))
    with SampleReader(index) as reader:
        write_shard(folder / "level-64/train-2.tar", [1, 1], 50)
        with pytest.raises(StaleIndexError, match=r"level-64/train-2.tar.*resize-levels \S+ --levels 64"):
            reader.read(np.array([9]))
    with pytest.raises(StaleIndexError, match=r"resize-levels \S+ --levels 64"):
        open_with_levels(folder, "train", (64,))
