import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from launching import run_jobs
from metric_lines import metrics_line
from run_results import lines
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from worlds import ALONE, SECOND_OF_TWO

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.checkpoints.manifest import MANIFEST
from engine.config import RunConfig, load_config
from engine.metrics import MetricsFile
from engine.monitor import open_monitors, scalars

FASHION = Path(__file__).resolve().parents[2] / "configs" / "fashion_mnist.yaml"


def config(*overrides: str) -> RunConfig:
    return load_config(FASHION, list(overrides))


def train_line(step: int, loss: float) -> dict[str, Any]:
    return metrics_line("train", step, loss=loss, grad_norm=None, keep_rate=0.4, num_kept=19)


def eval_line(step: int, keep_rate: float, top1: float) -> dict[str, Any]:
    return metrics_line("eval", step, keep_rate=keep_rate, top1=top1, weights="ema")


def shown_by_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(one.step, round(one.value, 5)) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# What is sent


def test_a_step_is_the_number_of_steps_trained_by_then() -> None:
    assert scalars(train_line(9, 0.5)) == (
        10,
        {"train/loss": 0.5, "train/keep_rate": 0.4, "train/num_kept": 19.0},
    )
    assert scalars(eval_line(10, 0.4, 0.8)) == (10, {"eval/top1_keep_0.4": 0.8})
    assert scalars({"event": "checkpoint", "step": 10, "stall_s": 1}) == (10, {"checkpoint/stall_s": 1.0})


def test_nothing_is_opened_unless_asked_for(tmp_path: Path) -> None:
    assert open_monitors(config(), tmp_path, 0, ALONE) == []
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_open_no_monitors(tmp_path: Path) -> None:
    assert open_monitors(config("monitor.tensorboard=true"), tmp_path, 0, SECOND_OF_TWO) == []
    assert list(tmp_path.iterdir()) == []


# TensorBoard


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path: Path) -> None:
    killed = open_monitors(config("monitor.tensorboard=true"), tmp_path, 0, ALONE)
    first = MetricsFile(tmp_path / "metrics.jsonl", 0, ALONE, killed)
    for step in range(8):
        first.write(train_line(step, 1.0))
        if step == 4:
            first.write(eval_line(5, 1.0, 0.5))
    first.write(eval_line(8, 1.0, 0.6))
    first.sync()  # what a checkpoint does; then the run is killed
    resumed = MetricsFile(
        tmp_path / "metrics.jsonl", 5, ALONE, open_monitors(config("monitor.tensorboard=true"), tmp_path, 5, ALONE)
    )
    for step in range(5, 9):
        resumed.write(train_line(step, 2.0))
    resumed.write(eval_line(9, 1.0, 0.7))
    resumed.close()
    shown = shown_by_tensorboard(tmp_path)
    assert shown["train/loss"] == [(step, 1.0 if step <= 5 else 2.0) for step in range(1, 10)]
    assert shown["eval/top1_keep_1"] == [(5, 0.5), (9, 0.7)]


@pytest.mark.timeout(600)
def test_a_run_that_goes_on_from_an_earlier_checkpoint_shows_what_its_metrics_hold(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    toy = write_toy_config(tmp_path / "toy.yaml", write_toy_shards(tmp_path / "shards"))
    on = ("--set", "monitor.tensorboard=true", "--set", "checkpoint.every=4steps")
    run = ["--config", str(toy), "--out", str(tmp_path / "run"), *on]
    newest = tmp_path / "run" / "checkpoints" / "step-00000008" / MANIFEST
    codes, printed = run_jobs(
        1, [[*run, "--max-steps", "8"], ["remove", str(newest)], [*run, "--max-steps", "12"]], tmp_path / "jobs"
    )
    assert codes == [0, 0, 0], printed
    assert "at step 4\n" in printed
    recorded = lines(tmp_path, "run", "train")
    shown = shown_by_tensorboard(tmp_path / "run")
    assert shown["train/loss"] == [(line["step"] + 1, round(line["loss"], 5)) for line in recorded]
    assert [step for step, _ in shown["train/loss"]] == list(range(1, 13))
    assert [step for step, _ in shown["eval/top1_keep_0.4"]] == [12]


# Weights & Biases, of which a small stand-in remembers what it was told


class _Run:
    def __init__(self, log: list[dict[str, Any]], **how: Any) -> None:
        self.id, self.how, self.finished, self._log = how["id"], how, False, log

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        self._log.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("wandb")
    module.logged, module.runs = [], []

    def init(**how: Any) -> _Run:
        module.runs.append(_Run(module.logged, **how))
        return module.runs[-1]

    module.init = init
    module.Settings = dict
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


WITH_WANDB = config("monitor.wandb={project: patches, entity: us}")


def test_weights_and_biases_gets_each_step_of_a_resumed_run_once(tmp_path: Path, wandb: Any) -> None:
    first = MetricsFile(tmp_path / "metrics.jsonl", 0, ALONE, open_monitors(WITH_WANDB, tmp_path, 0, ALONE))
    for step in range(8):
        first.write(train_line(step, 1.0))
    first.write(eval_line(4, 1.0, 0.5))
    # Killed here; it goes on from step 5, and is killed again before it comes to where it was.
    again = MetricsFile(tmp_path / "metrics.jsonl", 5, ALONE, open_monitors(WITH_WANDB, tmp_path, 5, ALONE))
    again.write(train_line(5, 2.0))
    third = MetricsFile(tmp_path / "metrics.jsonl", 5, ALONE, open_monitors(WITH_WANDB, tmp_path, 5, ALONE))
    for step in range(5, 10):
        third.write(train_line(step, 3.0))
        if step == 7:
            third.write(eval_line(8, 1.0, 0.6))
            third.write(eval_line(8, 0.4, 0.3))
    third.close()
    losses = [(values["step"], values["train/loss"]) for values in wandb.logged if "train/loss" in values]
    assert losses == [(step, 1.0 if step <= 8 else 3.0) for step in range(1, 11)]
    evaluated = [values for values in wandb.logged if "train/loss" not in values]
    assert evaluated == [
        {"step": 4, "eval/top1_keep_1": 0.5},
        {"step": 8, "eval/top1_keep_1": 0.6},
        {"step": 8, "eval/top1_keep_0.4": 0.3},
    ]
    assert wandb.runs[-1].finished


def test_the_run_keeps_its_id_and_where_it_belongs(tmp_path: Path, wandb: Any) -> None:
    for first_step in (0, 4):
        open_monitors(WITH_WANDB, tmp_path, first_step, ALONE)
    kept = json.loads((tmp_path / "wandb_run.json").read_text())["id"]
    assert [run.how["id"] for run in wandb.runs] == [kept, kept]
    assert [run.how["resume"] for run in wandb.runs] == ["never", "allow"]
    how = wandb.runs[0].how
    assert (how["project"], how["entity"], how["name"], how["dir"]) == ("patches", "us", "fashion_mnist", str(tmp_path))
    assert how["config"]["optim"]["lr"] == 1.5e-3


def test_a_refusal_is_a_users_error(tmp_path: Path, wandb: Any) -> None:
    def refuse(**how: Any) -> None:
        raise RuntimeError("no key\nconfigured")

    wandb.init = refuse
    with pytest.raises(ValueError, match=r"^monitor\.wandb cannot be opened: no key configured; set WANDB_API_KEY"):
        open_monitors(WITH_WANDB, tmp_path, 0, ALONE)


def test_a_monitor_that_fails_does_not_end_the_run(
    tmp_path: Path, wandb: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0, ALONE, open_monitors(WITH_WANDB, tmp_path, 0, ALONE))
    metrics.write(train_line(0, 1.0))
    wandb.logged = None
    wandb.runs[0]._log = None
    metrics.write(train_line(1, 1.0))
    metrics.write(train_line(2, 1.0))
    metrics.sync()
    metrics.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert capsys.readouterr().out.count("Weights & Biases gets no more metrics (AttributeError") == 1
