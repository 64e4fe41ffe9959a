"""What an update of the weights costs outside of the model, and that it is the update it should be."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from launching import python
from run_results import lines
from torch import Tensor, nn

from engine.config import load_config
from engine.optim import build_optimizer
from engine.update import update_weights

DEFAULT = Path(__file__).resolve().parents[2] / "configs" / "fashion_mnist.yaml"
COUNTING = Path(__file__).with_name("counted_updates.py")
BF16 = "engine.precision=bf16"
# Precision, stage of ZeRO, layers of the model, and how many operations an update may take there, all of them counted.
COUNTED = [
    *(("fp32", 0, 4, 60), ("fp32", 0, 12, 100), ("fp32", 2, 12, 450)),
    *(("bf16", 0, 4, 60), ("bf16", 0, 12, 100), ("bf16", 1, 12, 450), ("bf16", 2, 12, 450)),
]


def arguments(shards: Path, out: Path, *overrides: str) -> list[str]:
    """The default run on few images, evaluated once."""
    short = ("train.global_batch_size=16", "optim.warmup=2steps", "eval.every=null", "eval.keep_rates=[0.2]")
    data = (f"data.train={shards}", f"data.val={shards}", "data.num_train_samples=96", "checkpoint.every=null")
    flags = [word for override in (*short, *data, "engine.num_threads=1", *overrides) for word in ("--set", override)]
    return ["--config", str(DEFAULT), "--out", str(out), *flags]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, garment_shards: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of all runs that are looked at below, and what was counted, by the runs' names."""
    folder, jobs = tmp_path_factory.mktemp("counted"), {}
    for precision, stage, depth, _ in COUNTED:
        name = f"{precision}-{stage}-{depth}"
        model = (f"model.options.depth={depth}", "optim.layer_decay=0.75")
        course = ("train.duration=4steps", "log_every=4", "schedule.kind=constant", "schedule.keep_rate=0.2")
        kind = (f"engine.precision={precision}", f"engine.zero_stage={stage}")
        jobs[name] = arguments(garment_shards, folder / name, *model, *course, *kind)
    fifty = ("train.duration=50steps", "log_every=1")
    jobs["fp32"] = arguments(garment_shards, folder / "fp32", *fifty)
    for stage in (0, 1, 2):
        name = f"bf16 at {stage}"
        jobs[name] = arguments(garment_shards, folder / name, *fifty, BF16, f"engine.zero_stage={stage}")
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = python(COUNTING, folder / "jobs.json", folder / "counts.json", timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads((folder / "counts.json").read_text())


@pytest.mark.parametrize(("precision", "stage", "depth", "most"), COUNTED)
def test_an_update_takes_few_operations_and_waits_for_nothing(
    runs: tuple[Path, dict[str, Any]], precision: str, stage: int, depth: int, most: int
) -> None:
    counts = runs[1][f"{precision}-{stage}-{depth}"]
    assert [len(counts[part]) for part in ("updates", "steps")] == [4, 4]
    # The first step makes the optimizer's state, and the last one asks for numbers to log.
    for update in counts["updates"][1:-1]:
        assert not update["logged"]
        assert update["operations"] <= most
        assert update["waits"] == 0
    for step in counts["steps"][1:]:
        assert step["operations"] <= most
        assert step["waits"] == 0


def test_what_is_counted_are_all_operations(runs: tuple[Path, dict[str, Any]]) -> None:
    counts = runs[1]["fp32-0-4"]
    # Each of twelve groups has its counters of steps, and its weights with their moments.
    assert counts["steps"][-1]["operations"] >= 2 * 12
    assert counts["updates"][-1]["waits"] == 1


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_fifty_steps_in_bf16_have_the_losses_of_fp32(runs: tuple[Path, dict[str, Any]], stage: int) -> None:
    expected, found = (
        [line["loss"] for line in lines(runs[0], name, "train")] for name in ("fp32", f"bf16 at {stage}")
    )
    assert len(expected) == 50
    np.testing.assert_allclose(found, expected, rtol=0.01)


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def optimizer_of(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    group = {"params": parameters, "weight_decay": 0.1, "lr_scale": 1.0}
    return build_optimizer([group], lr=0.1, betas=(0.9, 0.999), eps=1e-8)


class Divided:
    """As much of an engine at ZeRO 1 as an update looks at: gradients in two groups, and flat float32 weights."""

    def __init__(self, size: int) -> None:
        self.flat = nn.Parameter(torch.ones(size))
        self.basic_optimizer = optimizer_of([self.flat])
        self.optimizer = SimpleNamespace(averaged_gradients={})

    def set_gradients(self, gradients: list[Tensor]) -> None:
        self.optimizer.averaged_gradients = {0: gradients[:1], 1: gradients[1:]}

    def step(self) -> None:
        groups = self.optimizer.averaged_gradients.values()
        self.flat.grad = torch.cat([gradient for group in groups for gradient in group]).float()
        self.basic_optimizer.step()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "max_norm"), [(5.0, 0.5), (0.001, 0.5), (5.0, None)])
def test_divided_gradients_are_clipped_as_torch_clips_whole_ones(
    dtype: torch.dtype, size: float, max_norm: float | None
) -> None:
    torch.manual_seed(0)
    limit = "null" if max_norm is None else max_norm
    config = load_config(DEFAULT, [f"train.clip_grad_norm={limit}", "engine.zero_stage=1"])
    whole = [nn.Parameter(torch.ones(numel)) for numel in (300, 41, 7)]
    engine: Any = Divided(348)
    reference = optimizer_of(whole)
    for growth in (1, 4, 2):  # Adam's first step is the same for gradients of any size
        gradients = [(growth * size * torch.randn(parameter.numel())).to(dtype) for parameter in whole]
        engine.set_gradients(gradients)
        norm = update_weights(engine, config, measure=True)
        for parameter, gradient in zip(whole, gradients, strict=True):
            parameter.grad = gradient.float()
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(whole, max_norm or float("inf"))), rel=1e-6)
        reference.step()
    torch.testing.assert_close(engine.flat, torch.cat(list(whole)), rtol=1e-6, atol=1e-6)
