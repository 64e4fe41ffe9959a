from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from launching import python_module, run_jobs
from worlds import ALONE

from benchmarks.shared.shell import ROOT
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.config import load_config
from engine.metrics import MetricsFile, read_metrics
from engine.metrics_table import EVENTS, METRICS, Interval, StepFacts, check_line, page, train_line
from pipeline.plan.schedule import Stage

STRENGTHS = ("magnitude", "mixup", "cutmix")
OF_SEVERAL = ("source_rows", "val")  # sources or validation sets
OF_ANCHORED = ("anchor_penalty",)  # runs with train.anchor: tests/engine/run/test_anchor.py
EVERY_RUN = ("--set", "checkpoint.every=2steps", "--set", "eval.every=2steps", "--max-steps", "4")
RUNS = {
    "plain": (),
    "averaged": ("--set", "train.ema_decay=0.9"),
    "examples": ("--set", "schedule.examples={rule: loss, keep: 0.1}"),  # epochs of one step
    "pretraining": (
        *("--set", "task=pretrain", "--set", "eval.keep_rates=[0.4]"),
        *("--set", "schedule={kind: constant, keep_rate: 0.4}"),
        *("--set", "pretrain={decoder_dim: 32, decoder_depth: 1, decoder_heads: 2}"),
    ),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The lines of real runs, by name."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "shards").mkdir()
    toy = write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    jobs = [
        ["--config", str(toy), "--out", str(folder / name), *EVERY_RUN, *settings] for name, settings in RUNS.items()
    ]
    codes, printed = run_jobs(1, jobs, folder / "jobs")
    assert codes == [0] * len(jobs), printed
    return {name: read_metrics(folder / name / "metrics.jsonl") for name in RUNS}


def names(event: str) -> list[str]:
    return [metric.name for metric in METRICS if metric.event == event]


def fields_of(lines: list[dict[str, Any]], event: str) -> list[list[str]]:
    """The fields of the event's lines, each way that they come in once."""
    found: list[list[str]] = []
    for line in lines:
        if line["event"] == event and list(line) not in found:
            found.append(list(line))
    return found


def test_the_lines_of_a_run_have_the_fields_of_the_table_in_its_order(written: dict[str, list[dict[str, Any]]]) -> None:
    for lines in written.values():
        others = (*STRENGTHS, *OF_SEVERAL, *OF_ANCHORED)
        assert fields_of(lines, "train") == [[name for name in names("train") if name not in others]]
        assert fields_of(lines, "checkpoint") == [names("checkpoint")]
    assert fields_of(written["examples"], "examples") == [names("examples")]
    known = [line["num_known"] for line in written["examples"] if line["event"] == "examples"]
    assert len(known) == 3, "one for each epoch but the first, before which nothing is known"
    assert 16 == known[0] < known[1] < known[2], "samples that are not known yet come before others"
    of_one_set = [name for name in names("eval") if name not in OF_SEVERAL]
    assert fields_of(written["averaged"], "eval") == [of_one_set]
    assert fields_of(written["plain"], "eval") == [[name for name in of_one_set if name != "weights"]]


def test_pretraining_has_no_accuracy(written: dict[str, list[dict[str, Any]]]) -> None:
    [fields] = fields_of(written["pretraining"], "eval")
    assert set(names("eval")) - set(fields) == {"top1", "top5", "weights", "val"}


def test_a_line_with_a_field_too_many_or_too_few_is_refused(
    written: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0, ALONE)
    lines = [line for lines in written.values() for line in lines]
    # The lines of what came from a store are looked at where there is one: tests/engine/test_store_runs.py.
    assert {line["event"] for line in lines} == set(EVENTS) - {"store"}
    for line in lines:
        check_line(line)
        with pytest.raises(AssertionError, match=r"does not have: \['new'\]"):
            metrics.write({**line, "new": 1})
        for metric in METRICS:
            less = {name: value for name, value in line.items() if name != metric.name}
            if metric.event == line["event"] and metric.name != "event" and not metric.only:
                with pytest.raises(AssertionError, match=rf"must have: \['{metric.name}'\]"):
                    metrics.write(less)
    metrics.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_an_event_that_the_table_does_not_have_is_refused() -> None:
    with pytest.raises(AssertionError, match="'test' is no event of the metrics"):
        check_line({"event": "test", "step": 3})


def test_a_train_line_is_computed_from_the_facts_of_its_step() -> None:
    config = load_config(ROOT / "configs" / "fashion_mnist.yaml", ["train.global_batch_size=64"])
    batch: Any = SimpleNamespace(
        plan=SimpleNamespace(epoch=3, stage=Stage(0.4, 19, 28, 4, {"mixup": 0.0})), num_images=16, num_bytes=16 * 1000
    )
    facts = StepFacts(
        step=29,
        loss=1.5,
        grad_norm=None,
        batch=batch,
        interval=Interval(
            10,
            0.5,
            0.1,
            cpu_s=0.7,
            device_busy_s=0.42,
            device_idle_s=0.06,
            bytes_read_per_image=300.0,
            pages_read_per_image=2.5,
        ),
        optimizer=SimpleNamespace(param_groups=[{"lr": 0.001}, {"lr": 0.002}]),
        config=config,
        bad_samples=2,
    )
    assert list(train_line(facts).items()) == [
        ("event", "train"),
        ("step", 29),
        ("epoch", 3),
        ("loss", 1.5),
        ("lr", 0.002),
        ("grad_norm", None),
        ("keep_rate", 0.4),
        ("num_kept", 19),
        ("image_size", 28),
        ("patch_size", 4),
        ("mixup", 0.0),
        ("micro_batch_size", 16),
        ("step_s", 0.5),
        ("loader_wait_s", 0.1),
        ("device_busy_s", 0.42),
        ("device_idle_s", 0.06),
        ("cpu_s", 0.7),
        ("images_per_s", 128.0),
        ("bytes_per_image", 1000.0),
        ("bytes_read_per_image", 300.0),
        ("pages_read_per_image", 2.5),
        ("interval_steps", 10),
        ("bad_samples", 2),
    ]
    check_line(train_line(facts))


def test_every_entry_is_of_an_event_and_only_those_of_a_step_are_computed() -> None:
    for event in EVENTS:
        assert len(names(event)) == len(set(names(event)))
    for metric in METRICS:
        assert metric.event in EVENTS
        assert (metric.of_step is not None) == (metric.event == "train")


def test_the_page_of_all_fields_is_up_to_date() -> None:
    done = python_module("engine.metrics_table")
    assert done.stdout == page()
    written = (ROOT / "docs" / "metrics.md").read_text()
    assert written == page(), "python -m engine.metrics_table > docs/metrics.md"
