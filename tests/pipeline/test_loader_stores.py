"""A loader over shards in a store gives what one over the same shards on a disk gives, as long as it can."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from loaded import content, garment_data
from pixels import train_planner

from benchmarks.shared.stores import Line
from pipeline.addresses import Address
from pipeline.config import DataConfig
from pipeline.loader import PatchLoader
from pipeline.plan.step import TrainPlanner
from pipeline.shards.data_sets import open_train, open_val
from pipeline.shards.index import ShardIndex, open_index
from pipeline.shards.joined import folder_of
from pipeline.storage.cache import CacheSettings
from pipeline.storage.errors import StoreGoneError
from pipeline.train_plans import TrainPlans

pytestmark = pytest.mark.timeout(120)
NUM_STEPS = 24  # two epochs of three shards


@pytest.fixture
def line(web: tuple[str, str]) -> Iterator[Line]:
    one = Line(web[0])
    yield one
    one.close()


def planner_of(index: ShardIndex) -> TrainPlanner:
    data = garment_data(Path("unused"), shuffle="window", window_shards=1)
    return train_planner(index, data, total_steps=NUM_STEPS)


def plans_of(planner: TrainPlanner) -> TrainPlans:
    return TrainPlans(planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=8)


def test_batches_are_those_of_the_disk_with_a_cache_that_holds_less_than_the_set(
    garment_shards: Path, line: Line, tmp_path: Path
) -> None:
    local = planner_of(open_index(garment_shards, "train"))
    with PatchLoader(local, plans_of(local), batch_size=8, num_threads=1) as loader:
        expected = content(list(loader))
    largest = max(shard.size_bytes for shard in local.samples.shards)  # type: ignore[attr-defined]
    settings = CacheSettings(tmp_path, 2 * largest)
    planner = planner_of(open_index(Address.parse(line.url), "train", settings))
    with PatchLoader(planner, plans_of(planner), batch_size=8, num_threads=1, reserve=2) as loader:
        found = []
        for batch in loader:
            found.append(batch)
            assert sum(path.stat().st_size for path in tmp_path.glob("shards/*")) <= 2 * largest
    assert content(found) == expected
    fetched = {path: count for path, count in line.gets.items() if path.endswith(".tar")}
    assert len(fetched) == 3
    assert max(fetched.values()) <= 2  # once an epoch at the most


def test_a_source_in_a_store_beside_one_on_a_disk_gives_what_two_on_disks_give(
    garment_shards: Path, line: Line, tmp_path: Path
) -> None:
    largest = max(path.stat().st_size for path in garment_shards.glob("train*.tar"))
    stored = {"cache_folder": tmp_path, "cache_max_bytes": 2 * largest}
    found = []
    for place, more in ((garment_shards, {}), (line.url, stored)):
        train = [
            {"name": "near", "folder": garment_shards, "share": 0.4},
            {"name": "far", "folder": place, "share": 0.6},
        ]
        val = [{"name": "far", "folder": place}]
        settings = {"train": train, "val": val, "num_classes": 10, "shuffle": "window", "window_shards": 1, **more}
        data = DataConfig.model_validate({**garment_data(Path("unused")).model_dump(), **settings})
        index = open_train(data)
        planner = train_planner(index, data, total_steps=NUM_STEPS)
        with PatchLoader(planner, plans_of(planner), batch_size=8, num_threads=1) as loader:
            found.append((content(list(loader)), index.fingerprint, open_val(data)[0].index.fingerprint))
        shares = [planner.source_rows(step, step + 1) for step in range(NUM_STEPS)]
        assert {one["far"] for one in shares if one is not None} == {4, 5}
    assert found[0] == found[1]
    assert index.shard_path(0) == garment_shards / "train-000000.tar"
    assert index.shard_path(3).is_relative_to(tmp_path)
    assert str(folder_of(index, 0)) == str(garment_shards)
    assert str(folder_of(index, 3)) == line.url
    assert {path for path in line.gets if path.endswith(".tar")} == {
        f"/{shard.name}" for shard in open_index(garment_shards, "train").shards
    }


def test_a_lost_store_is_told_while_the_reserve_is_still_to_come(line: Line, tmp_path: Path) -> None:
    planner = planner_of(open_index(Address.parse(line.url), "train", CacheSettings(tmp_path, 80_000, 0.5)))
    line.down_after = 2
    told: list[int] = []
    steps: list[int] = []
    with PatchLoader(
        planner,
        plans_of(planner),
        batch_size=8,
        num_threads=1,
        reserve=3,
        on_store_lost=lambda error: told.append(len(steps)),
    ) as loader:

        def read_all() -> None:
            for batch in loader:
                steps.append(batch.plan.step)

        with pytest.raises(StoreGoneError, match=r"data\.remote_patience_s"):
            read_all()
    assert steps == list(range(8))  # of two shards, one after the other: the cache has room for one
    assert len(told) == 1
    assert len(steps) - told[0] >= 3


def test_a_run_that_ends_gives_its_last_batches_whatever_the_reserve(line: Line, tmp_path: Path) -> None:
    planner = planner_of(open_index(Address.parse(line.url), "train", CacheSettings(tmp_path)))
    with PatchLoader(planner, plans_of(planner), batch_size=8, num_threads=1, reserve=50) as loader:
        assert len(list(loader)) == NUM_STEPS
