"""Short runs on a GPU, one after another in this process: precisions, ZeRO, going on, compiling, exporting."""

import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import pytest
import torch
from run_results import lines, summary

from benchmarks.shared.everything import everything
from benchmarks.shared.toy_data import NUM_VAL, top1_of_plain_timm, write_toy_config, write_toy_shards
from engine.ranks.world import World, join_world, leave_world
from engine.train import train_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]

CAN_COMPILE = (
    any(map(shutil.which, ("cc", "gcc", "clang"))) and Path(sysconfig.get_paths()["include"], "Python.h").exists()
)
DEVICES = ("cpu", "gpu")  # of the data


def not_ended(code: int) -> NoReturn:
    raise AssertionError(f"the run ended with exit code {code}: what it said is above")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """This process as a run of one rank. A run that fails ends no process here, but its test."""
    with patch.dict(os.environ), patch("engine.ranks.watch.os._exit", not_ended):
        joined = join_world()
        yield joined
        leave_world()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy shards and toy.yaml; runs lie in it too."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    return folder


def train(toy: Path, world: World, out: str, *settings: str, arguments: tuple[str, ...] = ()) -> list[float]:
    """One run, or what is left of it; the losses of all its steps."""
    words = [word for setting in settings for word in ("--set", setting)]
    assert train_run(["--config", str(toy / "toy.yaml"), "--out", str(toy / out), *words, *arguments], world) == 0
    return [line["loss"] for line in lines(toy, out, "train")]


@pytest.fixture(scope="module")
def in_fp32(toy: Path, world: World) -> list[float]:
    return train(toy, world, "fp32")


def apart(losses: list[float], others: list[float]) -> float:
    """Of the mean losses, a share of that of the others."""
    assert len(losses) == len(others) == 24
    return abs(sum(losses) - sum(others)) / sum(others)


def test_the_model_lies_on_the_gpu_and_its_loss_falls(world: World, in_fp32: list[float]) -> None:
    assert world.device.type == "cuda"
    assert sum(in_fp32[-5:]) < sum(in_fp32[:5])
    assert torch.cuda.max_memory_allocated() > 0


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_bf16_trains_as_float32_does_at_each_stage_of_zero(
    toy: Path, world: World, in_fp32: list[float], stage: int
) -> None:
    losses = train(toy, world, f"bf16-{stage}", "engine.precision=bf16", f"engine.zero_stage={stage}")
    assert apart(losses, in_fp32) <= 0.02
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("stage", [1, 2])
def test_float32_under_zero_trains_as_without(toy: Path, world: World, in_fp32: list[float], stage: int) -> None:
    assert apart(train(toy, world, f"fp32-{stage}", f"engine.zero_stage={stage}"), in_fp32) <= 0.005


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_that_was_stopped_goes_on_as_one_that_ran_through(toy: Path, world: World, device: str) -> None:
    settings = ("engine.precision=bf16", "engine.zero_stage=1", f"data.device={device}", "selection.rule=contrast")
    through = train(toy, world, f"through-{device}", *settings)
    train(toy, world, f"in-two-{device}", *settings, arguments=("--max-steps", "11"))
    in_two = train(toy, world, f"in-two-{device}", *settings)
    # Sums of a GPU need not repeat bit for bit.
    assert in_two == pytest.approx(through, rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("rule", ["random", "contrast", "magnitude"])
def test_images_decoded_on_the_gpu_train_as_those_decoded_on_the_cpu(toy: Path, world: World, rule: str) -> None:
    on_cpu, on_gpu = (
        train(toy, world, f"{rule}-{device}", f"selection.rule={rule}", f"data.device={device}") for device in DEVICES
    )
    assert apart(on_gpu, on_cpu) <= 0.02


def test_a_run_with_everything_on_decodes_augments_and_selects_on_the_gpu(toy: Path, world: World) -> None:
    words = [word for word in everything() if word != "--set"]
    losses = train(toy, world, "everything", *words, "data.device=gpu", "engine.precision=bf16")
    assert all(0 < loss < 10 for loss in losses)
    assert 0 <= summary(toy, "everything")["top1"]["0.4"] <= 1


@pytest.mark.skipif(not CAN_COMPILE, reason="no C compiler, or no headers of Python")
def test_compiled_blocks_train_as_plain_ones_do(toy: Path, world: World) -> None:
    one_shape = ("schedule.kind=constant", "schedule.keep_rate=0.4", "engine.precision=bf16")
    plain = train(toy, world, "plain", *one_shape)
    assert apart(train(toy, world, "compiled", *one_shape, "engine.compile=true"), plain) <= 0.02


@pytest.mark.usefixtures("in_fp32")
def test_the_exported_model_classifies_on_a_cpu_as_the_run_did_on_the_gpu(toy: Path) -> None:
    measured = summary(toy, "fp32")["top1"]["1.0"]
    assert abs(top1_of_plain_timm(toy / "fp32" / "model") - measured) <= 2 / NUM_VAL
