from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.config import RunConfig
from engine.evaluation.held_images import check_batches, describe_held, held_bytes
from pipeline.config import CacheConfig, DataConfig

MEGABYTES = 1_000_000
# Ten images of 100 x 100 and ten of 300 x 100 pixels: 60,000 bytes in the mean, 1.2 MB together.
INDEX: Any = SimpleNamespace(
    shard=np.zeros(20), height=np.repeat(100, 20).astype(np.int32), width=np.repeat([100, 300], 10).astype(np.int32)
)


def data(**settings: Any) -> DataConfig:
    return DataConfig(train="a", val="a", num_classes=2, **settings)


def cache(max_bytes: int, kind: str = "memory") -> CacheConfig:
    return CacheConfig(kind=kind, max_bytes=max_bytes, folder=Path("pixels") if kind == "disk" else None)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0),
        ({"echo": 2}, 8 * 60_000),
        ({"echo": 4, "echo_gap": 3}, 8 * 3 * 60_000),
        ({"cache": cache(MEGABYTES)}, MEGABYTES),
        ({"cache": cache(9 * MEGABYTES)}, 1_200_000),
        ({"cache": cache(9 * MEGABYTES, "disk")}, 0),
        ({"echo": 2, "cache": cache(MEGABYTES)}, 8 * 60_000 + MEGABYTES),
    ],
)
def test_what_a_rank_holds_is_known_beforehand(settings: dict[str, Any], expected: int) -> None:
    assert held_bytes(data(**settings), INDEX, rows_per_rank=8) == expected


def test_a_run_without_either_has_nothing_to_say() -> None:
    assert describe_held(data(), INDEX, 8, 2) is None


def test_the_line_says_what_is_done_and_what_it_takes() -> None:
    line = describe_held(data(echo=2, cache=cache(2 * MEGABYTES, "disk")), INDEX, 8, 2)
    assert line == (
        "echo 2: each decoded image serves 2 steps, 1 apart; cache in pixels, up to 2 MB a rank; "
        "a rank holds about 0.48 MB of decoded images in memory"
    )


def test_more_than_the_host_has_is_refused() -> None:
    settings = data(cache=cache(MEGABYTES))
    assert describe_held(settings, INDEX, 8, 4, memory_bytes=4 * MEGABYTES)
    with pytest.raises(ValueError, match=r"about 1 MB of decoded images on each of the 5 rank.*which has 4 MB"):
        describe_held(settings, INDEX, 8, 5, memory_bytes=4 * MEGABYTES)


def of_size(image_size: int, **sections: Any) -> RunConfig:
    """Batches of 8 images; of 1600 pixels a side they take 8 x 7.68 MB, and four are kept ready."""
    values = {"name": "a", "model": {"name": "vit"}, "optim": {"lr": 1}, "eval": {"micro_batch_size": 1}}
    train = {"duration": "1steps", "global_batch_size": 8}
    return RunConfig.model_validate({**values, "train": train, "data": data(image_size=image_size), **sections})


def test_batches_that_do_not_fit_the_memory_are_refused_before_any_is_made() -> None:
    with pytest.raises(
        ValueError,
        match=r"8 images of data.image_size 1,600 with 10,000 kept patches each takes 61.4 MB a rank.*has 245 MB of "
        r"memory; choose a smaller data.image_size, train.global_batch_size or",
    ):
        check_batches(of_size(1600), 8, 20, 1, memory_bytes=245 * MEGABYTES)
    check_batches(of_size(1600), 8, 20, 1, memory_bytes=246 * MEGABYTES)


def test_what_no_host_has_is_told_in_terabytes() -> None:
    with pytest.raises(ValueError, match=r"400,000 with 625,000,000 kept patches each takes 3\.8 TB a rank"):
        check_batches(of_size(400_000), 8, 20, 1)


def test_fewer_patches_take_less_and_more_ranks_take_more() -> None:
    few = of_size(1600, schedule={"keep_rate": 0.4})
    check_batches(few, 8, 20, 2, memory_bytes=200 * MEGABYTES)
    with pytest.raises(ValueError, match="each of the 3 rank"):
        check_batches(few, 8, 20, 3, memory_bytes=200 * MEGABYTES)
    cooled = of_size(1600, schedule={"keep_rate": 0.4, "cooldown": "1epochs"})
    with pytest.raises(ValueError, match="10,000 kept patches"):
        check_batches(cooled, 8, 20, 1, memory_bytes=200 * MEGABYTES)


def test_validation_takes_no_more_images_than_there_are() -> None:
    config = of_size(1600, eval={"micro_batch_size": 1000})
    check_batches(config, 1, 1, 1, memory_bytes=40 * MEGABYTES)
    with pytest.raises(ValueError, match=r"a batch of 20 images.*eval.micro_batch_size"):
        check_batches(config, 1, 20, 1, memory_bytes=40 * MEGABYTES)
