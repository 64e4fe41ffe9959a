from pathlib import Path
from typing import cast

import pytest
import torch

from benchmarks.shared.toy_data import write_toy_config
from engine.config import RunConfig, load_config
from engine.evaluation.evaluate import evaluate
from engine.evaluation.sizes import at_sizes
from engine.ranks.world import World
from pipeline.shards.index import ShardIndex


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return write_toy_config(tmp_path / "toy.yaml", tmp_path)


@pytest.fixture
def config(config_file: Path) -> RunConfig:
    return load_config(config_file)


def test_other_sizes_change_nothing_else(config: RunConfig) -> None:
    data = config.data
    assert at_sizes(data) == data
    larger = at_sizes(data, 24, 8)
    assert (larger.image_size, larger.patch_size, larger.num_patches) == (24, 8, 9)
    assert at_sizes(larger, data.image_size, data.patch_size) == data


@pytest.mark.parametrize(
    ("image_size", "patch_size", "message"),
    [
        (18, None, "patch_size 4 does not divide image_size 18; patch sizes near it that do: 2, 3, 6"),
        (None, 3, "patch_size 3 does not divide image_size 16"),
        (0, None, "image_size: Input should be greater than or equal to 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    image_size: int | None, patch_size: int | None, message: str, config: RunConfig
) -> None:
    with pytest.raises(ValueError, match=message):
        at_sizes(config.data, image_size, patch_size)


def test_a_masked_autoencoder_is_not_validated_at_other_sizes(config_file: Path) -> None:
    pretrain = load_config(config_file, ["task=pretrain", "schedule.keep_rate=[0.2,0.4]", "eval.keep_rates=[0.4]"])
    nothing = (torch.nn.Identity(), cast(ShardIndex, None), pretrain, 0.4, cast(World, None))
    with pytest.raises(ValueError, match="a masked autoencoder reconstructs images of its own sizes, 16 pixels in pat"):
        evaluate(*nothing, image_size=24)
