"""The parts of the loader's work, and what they do about images that cannot be decoded."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from jpeg_files import addressable_jpeg
from pixels import train_planner

from benchmarks.shared.bad_images import HEIGHT, SOUND_OUTSIDE, WIDTH, write_photo_shards
from engine.bad_data import DataError
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.bad_samples import RowReader, Rows
from pipeline.graph.settings import GraphSettings
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex
from tools.profile.loader import End, augments, splices, time_loader_until
from tools.profile.result import PARTS, LoaderParts
from tools.shards.units_files import write_units_files

BATCH_SIZE = 8


def settings(
    index: ShardIndex, augment: AugmentConfig | None = None, crop: str = "resized", rule: str = "contrast"
) -> GraphSettings:
    data = DataConfig(
        train=index.folder,
        val=index.folder,
        num_classes=48,
        image_size=32,
        patch_size=16,
        augment=augment or AugmentConfig(),
    )
    selection = SelectionConfig(rule=rule)
    return GraphSettings(data, selection, crop, BATCH_SIZE, num_threads=1, training=crop != "centre")


def seconds(index: ShardIndex, end: End, substitutes: TrainPlanner | None, rule: str = "contrast") -> float:
    of_graph = settings(index, rule=rule)
    schedule = ScheduleConfig(kind="constant", keep_rate=0.5)
    planner = train_planner(
        index, of_graph.data, selection=of_graph.selection, schedule=schedule, global_batch_size=BATCH_SIZE
    )
    return time_loader_until(
        end,
        (planner.plan(step) for step in range(100)),
        6,
        index=index,
        settings=of_graph,
        substitutes=planner if substitutes else None,
    )


def test_the_parts_of_the_loader_add_up_to_all_of_it() -> None:
    parts = LoaderParts.of(2.0, 1.5, 4.0, 4.0, 4.5, 5.0)
    assert parts == LoaderParts(read_ms=2.0, splice_ms=-0.5, decode_ms=2.5, augment_ms=0.0, select_ms=0.5, copy_ms=0.5)


def test_every_part_is_told_and_measured() -> None:
    names = [field.name.removesuffix("_ms") for field in fields(LoaderParts)]
    assert list(PARTS) == names == [*get_args(End), "copy"]


@pytest.fixture(scope="module")
def addressable(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    images = {i: addressable_jpeg(i, WIDTH, HEIGHT) for i in range(48)}
    index = write_photo_shards(tmp_path_factory.mktemp("addressable"), images)
    write_units_files([index], workers=1)
    return index


def test_units_are_left_out_in_training_from_crops_where_there_are_files_of_them(
    addressable: ShardIndex, tmp_path: Path
) -> None:
    assert splices(addressable, settings(addressable))
    assert not splices(addressable, settings(addressable, crop="pad"))
    assert not splices(addressable, settings(addressable, crop="centre"))
    assert not splices(addressable, replace(settings(addressable), decoded=True))
    ordinary = write_photo_shards(tmp_path)
    assert not splices(ordinary, settings(ordinary))


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every batch from now on."""
    found: list[int] = []
    read: Callable[..., Rows] = RowReader.read

    def noted(self: RowReader, *arguments: object) -> Rows:
        rows = read(self, *arguments)
        found.append(rows.num_bytes)
        return rows

    monkeypatch.setattr(RowReader, "read", noted)
    return found


@pytest.mark.parametrize("rule", ["random", "contrast"])
def test_a_loader_that_ends_with_reading_reads_whole_files_and_others_what_the_whole_loader_reads(
    addressable: ShardIndex, bytes_read: list[int], rule: str
) -> None:
    found: dict[End, list[int]] = {}
    for end in get_args(End):
        assert seconds(addressable, end, None, rule) > 0
        found[end] = bytes_read[:6]
        bytes_read.clear()
    assert sum(found["read"]) == addressable.length.sum()  # of an epoch's six batches
    assert found["splice"] == found["decode"] == found["augment"] == found["select"]
    assert sum(found["splice"]) < sum(found["read"])


def test_whether_anything_stands_between_flip_and_selection_is_known(tmp_path: Path) -> None:
    index = write_photo_shards(tmp_path)
    assert not augments(settings(index))
    assert augments(settings(index, AugmentConfig(color_jitter=0.1)))
    assert not augments(settings(index, AugmentConfig(color_jitter=0.1), crop="centre"))


@pytest.mark.parametrize("skip", [False, True])
def test_a_loader_that_ends_early_names_or_replaces_a_bad_image_as_the_whole_one_does(
    tmp_path: Path, skip: bool
) -> None:
    index = write_photo_shards(tmp_path, dict.fromkeys((3, 20), SOUND_OUTSIDE["a truncated JPEG"]))
    planner = train_planner(index, settings(index).data, global_batch_size=BATCH_SIZE) if skip else None
    assert seconds(index, "splice", planner) > 0  # nothing is wrong with them before they are decoded
    if skip:
        assert seconds(index, "decode", planner) > 0
    else:
        with pytest.raises(DataError, match=r"cannot be used: sample '.*truncated"):
            seconds(index, "decode", planner)
