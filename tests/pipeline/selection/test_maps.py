"""Score maps beside shards: what is written is read, and what does not fit is refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.shared.shard_files import write_shard
from pipeline.selection.maps import NoMapError, ScoreMaps, check_map_name, list_maps, map_path, write_maps
from pipeline.shards.exclusion import ExcludedSample, add_samples, exclusion_path
from pipeline.shards.index import ShardIndex, build_index, open_index


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    """Three shards of 4, 3 and 2 samples."""
    tars = [write_shard(tmp_path / f"train-{i}.tar", [0] * (4 - i), first=10 * i) for i in range(3)]
    return build_index(tmp_path, "train", tars)


def grids_of(index: ShardIndex, grid_size: int = 16, seed: int = 0) -> np.ndarray:
    shape = (len(index.shard), grid_size, grid_size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(index: ShardIndex, grids: np.ndarray, name: str = "contrast", numbers: tuple[int, ...] = (0, 1, 2)) -> None:
    for number in numbers:
        shard = index.shards[number]
        mine = np.ascontiguousarray(grids[index.shard == number])
        tar = index.folder / shard.name
        write_maps(tar, name, shard.digest, mine, kind=name, made_by={}, unscored=[])


def test_the_maps_of_samples_come_in_the_order_asked_for(index: ShardIndex) -> None:
    grids = grids_of(index)
    write(index, grids)
    maps = ScoreMaps(index, "contrast")
    ids = np.array([8, 0, 3, 4, 3, 7])
    np.testing.assert_array_equal(maps.grids(ids), grids[ids])
    assert maps.grid_size == 16
    assert maps.grids(ids[:0]).shape == (0, 16, 16)


def test_a_map_takes_a_byte_a_cell(index: ShardIndex) -> None:
    write(index, np.concatenate([grids_of(index)] * 1))
    size = map_path(index.folder / "train-0.tar", "contrast").stat().st_size
    assert 4 * 256 <= size < 4 * 256 + 2000


def test_files_of_other_shards_are_not_opened(index: ShardIndex) -> None:
    grids = grids_of(index)
    write(index, grids, numbers=(0, 2))
    maps = ScoreMaps(index, "contrast")
    np.testing.assert_array_equal(maps.grids(np.array([0, 8])), grids[[0, 8]])
    with pytest.raises(NoMapError, match=r"train-1\.contrast\.map"):
        maps.grids(np.array([5]))


def test_the_maps_of_a_folder_are_listed(index: ShardIndex) -> None:
    assert list_maps(index.folder) == []
    write(index, grids_of(index), "contrast")
    write(index, grids_of(index), "my-own_2", numbers=(1,))
    assert list_maps(index.folder) == ["contrast", "my-own_2"]


def test_a_missing_map_is_named_with_those_there_and_the_command(index: ShardIndex) -> None:
    write(index, grids_of(index), "contrast")
    with pytest.raises(NoMapError, match=r"maps there: contrast\); make it with: .*score .* --by bytes"):
        ScoreMaps(index, "bytes").fingerprint()


def test_a_map_of_other_images_is_refused(index: ShardIndex) -> None:
    write(index, grids_of(index))
    shards = (replace(index.shards[0], digest="another"), *index.shards[1:])
    with pytest.raises(NoMapError, match="made of another shard than the one that lies there now; make it again with"):
        ScoreMaps(replace(index, shards=shards), "contrast").grids(np.array([0]))


def test_maps_of_differing_grids_are_refused(index: ShardIndex) -> None:
    write(index, grids_of(index), numbers=(0, 2))
    write(index, grids_of(index, grid_size=8), numbers=(1,))
    with pytest.raises(ValueError, match=r"train-1\.contrast\.map: a grid of 8, but train-0\.tar has one of 16"):
        ScoreMaps(index, "contrast").fingerprint()


@pytest.mark.parametrize("damage", ["empty", "cut off", "no map", "another version"])
def test_a_damaged_file_is_named(index: ShardIndex, damage: str) -> None:
    write(index, grids_of(index))
    path = map_path(index.folder / "train-1.tar", "contrast")
    content = path.read_bytes()
    if damage == "another version":
        content = content.replace(b'"format_version": 1', b'"format_version": 9')
    path.write_bytes({"empty": b"", "cut off": content[:-300], "no map": b"x" * 5000}.get(damage, content))
    with pytest.raises(ValueError, match=r"train-1\.contrast\.map: not a readable score map .*make it again with"):
        ScoreMaps(index, "contrast").fingerprint()


def test_the_fingerprint_follows_the_scores_and_the_kind_and_not_the_place(index: ShardIndex, tmp_path: Path) -> None:
    write(index, grids_of(index))
    first = ScoreMaps(index, "contrast").fingerprint()
    write(index, grids_of(index), "other")
    assert ScoreMaps(index, "other").fingerprint() != first
    write(index, grids_of(index, seed=1), numbers=(1,))
    assert ScoreMaps(index, "contrast").fingerprint() != first
    write(index, grids_of(index))
    assert ScoreMaps(index, "contrast").fingerprint() == first


def test_a_sample_that_was_left_out_and_is_not_any_more_has_no_map(index: ShardIndex) -> None:
    shard = index.shards[1]
    grids = grids_of(index)
    write(index, grids)
    tar = index.folder / shard.name
    write_maps(tar, "contrast", shard.digest, grids[4:7].copy(), kind="contrast", made_by={}, unscored=[2])
    with pytest.raises(ValueError, match=r"sample 'sample00012' .* was excluded when this map was made and is not now"):
        ScoreMaps(index, "contrast").grids(np.array([4]))
    add_samples(
        exclusion_path(index.folder, "train"), index.fingerprint, [ExcludedSample(shard.name, "sample00012", "bad", 6)]
    )
    excluding = open_index(index.folder, "train")
    np.testing.assert_array_equal(ScoreMaps(excluding, "contrast").grids(np.array([4, 7])), grids[[4, 7]])


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "ä b"])
def test_a_name_that_no_file_could_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits, - and _"):
        check_map_name(name)


def test_the_file_is_plain_arrow(index: ShardIndex) -> None:
    grids = grids_of(index)
    write(index, grids)
    with pa.OSFile(str(map_path(index.folder / "train-2.tar", "contrast"))) as file, pa.ipc.open_file(file) as reader:
        cells = reader.get_batch(0).column(0).to_pylist()
    assert cells == [grid.tobytes() for grid in grids[7:]]
