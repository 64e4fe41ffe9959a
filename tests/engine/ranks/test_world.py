"""Errors before a run begins."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from engine.ranks.world import World, one_clear_error


@pytest.fixture
def alone() -> Iterator[World]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"), hosts=("here",))
    dist.destroy_process_group()


def test_a_users_error_is_one_line_and_code_2(alone: World, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, one_clear_error(alone):
        raise ValueError("the batch is too large")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: the batch is too large\n"


def test_any_other_exception_is_one_traceback_and_code_1(alone: World, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, one_clear_error(alone):
        raise LookupError("no such thing")
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: Traceback")
    assert said.endswith("LookupError: no such thing\n")
