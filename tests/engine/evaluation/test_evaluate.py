from pathlib import Path
from typing import cast

import pytest
import torch

from benchmarks.shared.toy_data import write_toy_config
from engine.config import load_config
from engine.evaluation.evaluate import evaluate
from engine.ranks.world import World
from pipeline.shards.index import ShardIndex


def test_a_masked_autoencoder_is_not_validated_at_other_sizes(tmp_path: Path) -> None:
    config_file = write_toy_config(tmp_path / "toy.yaml", tmp_path)
    pretrain = load_config(config_file, ["task=pretrain", "schedule.keep_rate=[0.2,0.4]", "eval.keep_rates=[0.4]"])
    nothing = (torch.nn.Identity(), cast(ShardIndex, None), pretrain, 0.4, cast(World, None))
    with pytest.raises(ValueError, match="a masked autoencoder reconstructs images of its own sizes, 16 pixels in pat"):
        evaluate(*nothing, image_size=24)
