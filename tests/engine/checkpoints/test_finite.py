"""Weights that are no numbers any more are found wherever they are, and what to do then is said."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from worlds import ALONE

from engine.average import WeightAverage
from engine.checkpoints.finite import (
    DivergedError,
    are_finite,
    check_finite,
    clear_divergence,
    how_to_go_on,
    own_part,
    what_is_broken,
)
from engine.checkpoints.manifest import MANIFEST, step_folder

NOT_FINITE = (float("nan"), float("inf"), float("-inf"))


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [1, 7, 64, 1001])
def test_one_number_among_many_is_enough(value: float, dtype: torch.dtype, size: int) -> None:
    for position in {0, size // 2, size - 1}:
        tensor = torch.zeros(size, dtype=dtype)
        assert are_finite([torch.ones(2, 3), tensor])
        tensor[position] = value
        assert not are_finite([torch.ones(2, 3), tensor])


def test_large_numbers_whole_numbers_and_no_numbers_are_finite() -> None:
    assert are_finite([torch.full((9,), torch.finfo(torch.float32).max), torch.arange(3), torch.empty(0)])
    assert are_finite([])


def test_the_end_of_the_last_part_of_a_divided_parameter_is_nobodys() -> None:
    """Five numbers over three ranks in parts of two, as ZeRO-3 divides them, and over four ranks."""
    assert [own_part(torch.zeros(2), 5, rank).numel() for rank in range(3)] == [2, 2, 1]
    assert [own_part(torch.zeros(2), 5, rank).numel() for rank in range(4)] == [2, 2, 1, 0]


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Trained:
    """A model after one step, with what DeepSpeed keeps of it under ZeRO 0 in float32."""

    def __init__(self) -> None:
        self.module = nn.BatchNorm1d(3)
        self.average = WeightAverage(self.module, 0.9)
        self.basic_optimizer = torch.optim.AdamW(self.module.parameters())
        self.loss().backward()
        self.basic_optimizer.step()

    def loss(self) -> Tensor:
        return self.module(torch.eye(3)).square().sum()

    def check(self, loss: Callable[[], Tensor] | None = None) -> None:
        engine: Any = SimpleNamespace(module=self.module, basic_optimizer=self.basic_optimizer)
        check_finite(engine, self.average.model, loss or self.loss, 7, ALONE)


def moments(trained: Trained, name: str) -> Tensor:
    return trained.basic_optimizer.state[trained.module.weight][name]


# Where a number is broken, and what is said of it.
PLACES: dict[str, tuple[Callable[[Trained], Tensor], str]] = {
    "a weight": (lambda trained: trained.module.weight, "the weights are not finite after step 7"),
    "a buffer": (lambda trained: trained.module.running_var, "the weights are not finite"),
    "a first moment": (lambda trained: moments(trained, "exp_avg"), "the optimizer's moments are not finite"),
    "a second moment": (lambda trained: moments(trained, "exp_avg_sq"), "the optimizer's moments are not finite"),
    "an average": (lambda trained: trained.average.model.bias, "the averaged weights are not finite"),
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("place", PLACES)
def test_what_a_checkpoint_would_hold_is_looked_at(place: str) -> None:
    find, said = PLACES[place]
    trained = Trained()
    trained.check()
    with torch.no_grad():
        find(trained)[1] = float("nan")
    with pytest.raises(DivergedError, match=said) as error:
        trained.check()
    assert error.value.steps == 7


@pytest.mark.usefixtures("alone")
def test_the_optimizers_own_weights_are_looked_at() -> None:
    """In bfloat16 DeepSpeed keeps the weights in float32 beside the model's."""
    own = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([own])
    own.sum().backward()
    optimizer.step()
    engine: Any = SimpleNamespace(module=nn.Linear(1, 1), basic_optimizer=optimizer)
    assert what_is_broken(engine, None, ALONE) is None
    with torch.no_grad():
        own[3] = float("inf")
    assert what_is_broken(engine, None, ALONE) == "the weights are"


@pytest.mark.usefixtures("alone")
def test_finite_weights_that_are_too_large_to_work_with_are_found_by_their_loss() -> None:
    with pytest.raises(DivergedError, match="so large that their loss is not finite"):
        Trained().check(lambda: torch.tensor(float("nan")))


@pytest.mark.usefixtures("alone")
def test_a_run_that_diverged_ends_with_one_line_and_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, clear_divergence(ALONE, tmp_path):
        raise DivergedError("the loss is nan at step 3", 3)
    assert end.value.code == 4
    said = capsys.readouterr().err
    assert said.startswith("error: the loss is nan at step 3. There is no good checkpoint")
    assert said.count("\n") == 1


def checkpoints(folder: Path, *steps: int) -> Path:
    for step in steps:
        step_folder(folder, step).mkdir()
        (step_folder(folder, step) / MANIFEST).touch()
    step_folder(folder, 9).mkdir()  # an interrupted save
    return folder


def test_the_last_good_checkpoint_is_named_and_the_keys_that_help(tmp_path: Path) -> None:
    said = how_to_go_on(checkpoints(tmp_path, 4, 8), 11)
    assert f"the last good checkpoint is {tmp_path}/step-00000008, and the same command goes on from there" in said
    assert all(key in said for key in ("optim.lr", "optim.warmup", "train.clip_grad_norm", "--allow-change"))


def test_a_checkpoint_that_leads_to_it_is_not_a_good_one(tmp_path: Path) -> None:
    said = how_to_go_on(checkpoints(tmp_path, 4, 8), 8)
    assert f"{tmp_path}/step-00000008 leads to this; give --resume {tmp_path}/step-00000004 to go on" in said


@pytest.mark.parametrize(
    ("steps", "way_out"), [((), "the same command starts anew"), ((8,), "give --resume never to start anew")]
)
def test_without_a_good_checkpoint_a_run_starts_anew(tmp_path: Path, steps: tuple[int, ...], way_out: str) -> None:
    assert f"There is no good checkpoint; {way_out}" in how_to_go_on(checkpoints(tmp_path, *steps), 8)
