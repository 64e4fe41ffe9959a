"""What a batch is trained on, row by row."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.task import Outcome


@pytest.mark.parametrize(
    ("weights", "mean"), [(None, 2.0), ([1.0, 1.0, 1.0], 2.0), ([3.0, 0.0, 1.0], 2.0), ([2.0] * 3, 4.0)]
)
def test_a_row_counts_as_much_as_its_example_weighs(weights: list[float] | None, mean: float) -> None:
    batch: Any = SimpleNamespace(weights=None if weights is None else torch.tensor(weights))
    assert Outcome(torch.tensor([1.0, 2.0, 3.0]), None).mean_loss(batch).item() == mean
