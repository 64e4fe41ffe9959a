"""Too little memory, told in one line. What torch raises for it on a GPU is raised here without one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from worlds import ALONE, SECOND_OF_TWO

from benchmarks.shared.toy_data import write_toy_config
from engine.checkpoints.resume import Start
from engine.config import RunConfig, load_config
from engine.ranks.world import World
from engine.run import course
from engine.run.out_of_memory import clear_out_of_memory
from pipeline.graph.faults import LoaderMemoryError

ON_A_GPU = World(0, 1, 0, 1, torch.device("cuda", 0), ("here",))
OF_TORCH = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is "
    "free.\nProcess 7 has 77 GiB memory in use."
)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    file = write_toy_config(tmp_path / "toy.yaml", tmp_path / "shards")
    return load_config(file, ["train.micro_batch_size=4", "engine.checkpoint_activations=true"], preview=True)


def told(error: BaseException, config: RunConfig, world: World, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end, clear_out_of_memory(world, config):
        raise error
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_gpu_too_small_is_one_line_with_what_was_set_and_what_to_lower(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(torch.OutOfMemoryError(OF_TORCH), config, ON_A_GPU, capsys)
    assert said.startswith(
        "error: the GPU's memory is too small for this (CUDA out of memory. Tried to allocate 2.00 GiB"
    )
    for was_set in (
        *("train.micro_batch_size 4", "train.tokens_per_micro_batch null", "engine.precision fp32"),
        *("engine.checkpoint_activations true", "engine.zero_stage 0", "data.device cpu"),
    ):
        assert was_set in said
    assert "lower train.micro_batch_size first (or eval.micro_batch_size, if it was in validation)" in said


def test_memory_of_the_host_is_told_from_that_of_the_gpu(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(MemoryError(), config, ALONE, capsys)
    assert said.startswith("error: this host's memory is too small for this")
    assert "lower data.prefetch_batches" in said


def test_the_loaders_own_words_stand_as_they_are_behind_the_rank_that_met_it(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(LoaderMemoryError("the loader ran out of the GPU's memory"), config, SECOND_OF_TWO, capsys)
    assert said == "error: rank 1 (here): the loader ran out of the GPU's memory\n"


class AgreedError(RuntimeError):
    agreed = True


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: an illegal memory access was encountered"), AgreedError("Cannot allocate memory")],
)
def test_anything_else_and_what_all_ranks_tell_together_passes(config: RunConfig, error: RuntimeError) -> None:
    with pytest.raises(RuntimeError) as raised, clear_out_of_memory(ON_A_GPU, config):
        raise error
    assert raised.value is error


def test_training_that_runs_out_of_memory_ends_so(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*_: object) -> None:
        raise torch.OutOfMemoryError(OF_TORCH)

    monkeypatch.setattr(course, "train", train)
    run: Any = SimpleNamespace(folder=tmp_path, world=ON_A_GPU, config=config)
    with pytest.raises(SystemExit) as end:
        course._train_and_finish(run, Start(), 8)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: the GPU's memory is too small")
