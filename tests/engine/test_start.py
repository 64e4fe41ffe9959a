"""What is looked at between a checkpoint and the first step after it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from worlds import ALONE

from engine.checkpoints.resume import Start
from engine.start import _check_loaded

START = Start(Path("runs/mine/checkpoints/step-00000008"), step=8)


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def loaded() -> Any:
    """A model and its optimizer as DeepSpeed holds them."""
    module = nn.Linear(2, 2)
    return SimpleNamespace(module=module, basic_optimizer=torch.optim.AdamW(module.parameters()))


def test_a_checkpoint_of_finite_weights_is_gone_on_from(loaded: Any) -> None:
    _check_loaded(START, loaded, None, ALONE)


def test_one_of_weights_that_are_not_finite_is_refused_by_name(loaded: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.no_grad():
        loaded.module.bias[1] = float("nan")
    with pytest.raises(SystemExit) as end:
        _check_loaded(START, loaded, None, ALONE)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"error: the checkpoint {START.checkpoint} cannot be gone on from: the weights are not finite there" in said
    assert "--resume PATH" in said
    assert said.count("\n") == 1
