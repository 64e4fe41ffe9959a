"""The parts of the loader's work, and what they do about images that cannot be decoded."""

from pathlib import Path

import pytest
from pixels import train_planner

from benchmarks.shared.bad_images import SOUND_OUTSIDE, write_photo_shards
from engine.bad_data import DataError
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.settings import GraphSettings, LastPart
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex
from tools.profile.loader import augments, time_loader_until
from tools.profile.result import LoaderParts

BATCH_SIZE = 8


def settings(index: ShardIndex, augment: AugmentConfig | None = None, crop: str = "resized") -> GraphSettings:
    data = DataConfig(
        train=index.folder,
        val=index.folder,
        num_classes=48,
        image_size=32,
        patch_size=16,
        augment=augment or AugmentConfig(),
    )
    return GraphSettings(data, SelectionConfig(), crop, BATCH_SIZE, num_threads=1, training=crop != "centre")


def seconds(index: ShardIndex, last_part: LastPart | None, substitutes: TrainPlanner | None) -> float:
    of_graph = settings(index)
    planner = train_planner(index, of_graph.data, global_batch_size=BATCH_SIZE)
    return time_loader_until(
        last_part,
        (planner.plan(step) for step in range(100)),
        6,
        index=index,
        settings=of_graph,
        substitutes=planner if substitutes else None,
    )


def test_the_parts_of_the_loader_add_up_to_all_of_it() -> None:
    parts = LoaderParts.of(1.0, 4.0, 4.0, 4.5, 5.0)
    assert parts == LoaderParts(read_ms=1.0, decode_ms=3.0, augment_ms=0.0, select_ms=0.5, copy_ms=0.5)


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
    assert seconds(index, None, planner) > 0  # nothing is wrong with them before they are decoded
    if skip:
        assert seconds(index, "decode", planner) > 0
    else:
        with pytest.raises(DataError, match=r"cannot be used: sample '.*truncated"):
            seconds(index, "decode", planner)
