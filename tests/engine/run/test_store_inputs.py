"""What lies beside shards in a store comes along: score maps at the start, files of units with their shards."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.shell import ROOT
from benchmarks.shared.stores import Line, put
from engine.checkpoints.resume import identity
from engine.config import load_config
from engine.run.inputs import open_maps
from pipeline.addresses import Address
from pipeline.selection.maps import NoMapError, write_maps
from pipeline.shards.index import ShardIndex, open_index
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import open_units, write_units
from pipeline.storage.cache import CacheSettings

CONFIG = ROOT / "configs" / "fashion_mnist.yaml"


def with_files_beside(folder: Path, to: Path) -> ShardIndex:
    """A copy of a folder of shards, with maps named ``made`` and files of units without any."""
    shutil.copytree(folder, to)
    index = open_index(to, "train")
    for number, shard in enumerate(index.shards):
        grids = np.random.default_rng(number).integers(0, 256, (shard.num_samples, 4, 4), dtype=np.uint8)
        write_maps(to / shard.name, "made", shard.digest, grids, kind="test", made_by={}, unscored=[])
        write_units(to / shard.name, shard.digest, [None] * shard.num_samples)
    return index


def test_score_maps_of_a_store_are_those_of_the_disk(garment_shards: Path, tmp_path: Path, s3_line: Line) -> None:
    local = with_files_beside(garment_shards, tmp_path / "shards")
    address = Address.parse("s3://mapped/set")
    put(tmp_path / "shards", address)
    remote = open_index(address, "train", CacheSettings(tmp_path / "cache"))
    ids = np.array([0, 40, 95])
    [here], [there] = (open_maps("made", {"data.train": index}).values() for index in (local, remote))
    assert here.fingerprint() == there.fingerprint()
    assert np.array_equal(here.grids(ids), there.grids(ids))
    with pytest.raises(NoMapError, match="unmade"):
        open_maps("unmade", {"data.train": remote})


def test_a_run_over_a_store_is_the_run_over_the_disk_to_its_checkpoints(
    garment_shards: Path, tmp_path: Path, s3_line: Line
) -> None:
    address, cache = Address.parse("s3://same-run/set"), tmp_path / "cache"
    put(garment_shards, address)
    plain = ["data.num_train_samples=96", "data.shuffle=window"]
    found = []
    for place, more in (
        (garment_shards, []),
        (address, [f"data.cache_folder={cache}", "data.cache_max_bytes=9000000"]),
    ):
        config = load_config(CONFIG, [f"data.train={place}", f"data.val={place}", *plain, *more])
        found.append(identity(config, open_index(config.data.train, "train", config.data.shard_cache)))
    assert found[0] == found[1]


def test_files_of_units_come_with_their_shards(garment_shards: Path, tmp_path: Path, s3_line: Line) -> None:
    with_files_beside(garment_shards, tmp_path / "shards")
    address = Address.parse("s3://with-units/set")
    put(tmp_path / "shards", address)
    remote = open_index(address, "train", CacheSettings(tmp_path / "cache"))
    assert not list(remote.folder.glob("*.units"))
    with SampleReader(remote) as reader:
        reader.read(np.array([40]))
    assert [path.name for path in remote.folder.glob("*.units")] == ["train-000001.units"]
    assert open_units(remote.folder, remote.shards[1]) is not None
