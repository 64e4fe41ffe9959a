"""What the trainer keeps of every sample's visits, beside dictionaries that are filled visit by visit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_tables import samples
from worlds import ALONE, SECOND_OF_TWO

from engine.checkpoints.state_files import write_state
from engine.metrics import MetricsFile, read_metrics
from engine.ranks.world import World
from engine.run.example_scores import (
    RECORDED,
    SCORES_FILE,
    ScoreRecord,
    Tally,
    losses_of,
    open_scores,
    rights_of,
    take_losses,
    take_rights,
)
from engine.task import Outcome
from pipeline.config import DataConfig
from pipeline.plan.examples import RULES
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig

NUM_IDS, BATCH, SHORT_STEPS, TOTAL_STEPS = 32, 4, 4, 7 * 4 + 8

visits = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30)


def planner_of(rule: str | None) -> TrainPlanner:
    examples = None if rule is None else {"rule": rule, "keep": 0.5}
    schedule = ScheduleConfig.model_validate({"examples": examples})
    data = DataConfig(train="a", val="a", num_classes=10, image_size=8, patch_size=4)
    laid = PatchSchedule(schedule, 4, TOTAL_STEPS, NUM_IDS // BATCH, BATCH, 0)
    return TrainPlanner(samples(NUM_IDS), data, SelectionConfig(), laid, BATCH, 0)


def record_of(world: World = ALONE, rows_per_rank: int = BATCH, rule: str = "loss") -> ScoreRecord:
    return ScoreRecord(planner_of(rule), RECORDED[rule], rows_per_rank, world)


def observe(record: ScoreRecord, step: int, ids: list[int], losses: list[float]) -> None:
    """A visit of samples of class 0, of which those at a loss below 1 are classified right."""
    plan, labels = SimpleNamespace(step=step, sample_ids=np.array(ids)), torch.zeros(len(ids), dtype=torch.long)
    batch: Any = SimpleNamespace(plan=plan, labels=labels, mix_labels=None, mix_weights=None)
    logits = torch.tensor([[1.0, loss] for loss in losses])
    record.observe(batch, Outcome(torch.tensor(losses), logits))


def scores_in(record: ScoreRecord) -> dict[int, float]:
    """Those that are known, by sample id."""
    scores = record.state()["scores"].numpy()
    return {int(i): float(scores[i]) for i in np.flatnonzero(~np.isnan(scores))}


def test_every_rule_that_looks_at_scores_has_something_that_records_them() -> None:
    assert {name for name, rule in RULES.items() if rule.is_scored} == RECORDED.keys()


@pytest.mark.parametrize("rule", [None, "random"])
def test_nothing_is_recorded_where_no_epoch_looks_at_scores(rule: str | None) -> None:
    assert open_scores(planner_of(rule), BATCH, ALONE) is None


@given(visits)
def test_the_loss_of_the_last_visit_counts(seen: list[tuple[int, bool]]) -> None:
    tally, expected = Tally.empty(6), {}
    for number, (sample, _) in enumerate(seen):
        take_losses(tally, np.array([sample]), np.array([number], np.float32))
        expected[sample] = number
    assert {i: tally.scores[i] for i in range(6) if not np.isnan(tally.scores[i])} == expected


@given(visits)
def test_a_sample_is_forgotten_each_time_that_it_was_right_and_then_is_wrong(seen: list[tuple[int, bool]]) -> None:
    tally = Tally.empty(6)
    for sample, is_right in seen:
        take_rights(tally, np.array([sample]), np.array([is_right], np.float32))
    for sample in range(6):
        course = [is_right for one, is_right in seen if one == sample]
        if any(course):
            assert tally.scores[sample] == sum(a and not b for a, b in pairwise(course))
        else:
            assert np.isnan(tally.scores[sample]), "never learnt"


def test_what_a_row_is_asked_for_is_its_own_loss_and_the_weightier_of_its_labels() -> None:
    batch: Any = SimpleNamespace(
        labels=torch.tensor([0, 0, 0]),
        mix_labels=torch.tensor([1, 1, 1]),
        mix_weights=torch.tensor([0.9, 0.2, 0.9]),
        weights=torch.tensor([2.0, 2.0, 2.0]),
    )
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    outcome = Outcome(torch.tensor([1.0, 2.0, 3.0], requires_grad=True), logits)
    assert losses_of(batch, outcome).tolist() == [1.0, 2.0, 3.0]
    assert not losses_of(batch, outcome).requires_grad
    assert rights_of(batch, outcome).tolist() == [1.0, 1.0, 0.0]


def test_an_epochs_scores_are_published_before_its_first_step_and_hold_all_that_came_before(tmp_path: Path) -> None:
    record, metrics = record_of(), MetricsFile(tmp_path / "metrics.jsonl", 0, ALONE)
    record.publish_if_due(0, metrics)
    assert record.board.newest is None, "before the first epoch nothing is known"
    for step in range(SHORT_STEPS):
        observe(record, step, [step, 10 + step], [1.0, 2.0])
        observe(record, step, [20 + step, 5], [3.0, float(step)])
        record.publish_if_due(step, metrics)
    assert record.board.newest is None
    said = {"num_known": 13, "mean_score": pytest.approx(27 / 13), "num_above_mean": 5}
    record.publish_if_due(SHORT_STEPS, metrics)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"event": "examples", "step": 4, "epoch": 1, **said}]
    newest = record.board.newest
    assert newest is not None
    assert newest.step == SHORT_STEPS
    observe(record, SHORT_STEPS, [0, 1, 2, 3], [9.0] * 4)
    record.state()
    assert newest.scores[0] == 1.0, "what is published does not change any more"
    assert newest.scores[5] == 3.0
    assert np.isnan(newest.scores[30])


def test_what_full_epochs_come_to_is_not_kept() -> None:
    record = record_of()
    observe(record, 7 * SHORT_STEPS, [0, 1, 2, 3], [9.0] * 4)
    assert scores_in(record) == {}


@contextmanager
def with_another_rank(others: Iterator[list]) -> Iterator[None]:
    """This rank is the second of two: what the first one hands over, one exchange after the other."""

    def all_gather(parts: list[torch.Tensor], own: torch.Tensor) -> None:
        parts[0].copy_(torch.tensor(next(others), dtype=own.dtype))
        parts[1].copy_(own)

    with patch("engine.run.example_scores.dist.all_gather", all_gather):
        yield


def test_ranks_take_in_the_visits_of_all_in_the_order_of_the_global_batch() -> None:
    """Sample 7 is visited in both steps and by both ranks, as a substitute may be."""
    whole, second = record_of(), record_of(SECOND_OF_TWO, BATCH // 2)
    observe(whole, 0, [7, 1, 2, 3], [0.1, 0.2, 0.3, 0.4])
    observe(whole, 1, [4, 7, 7, 6], [1.1, 1.2, 1.3, 1.4])
    observe(second, 0, [2, 3], [0.3, 0.4])
    observe(second, 1, [7, 6], [1.3, 1.4])
    with with_another_rank(iter([[7, 1, 4, 7], [0.1, 0.2, 1.1, 1.2]])):
        assert scores_in(second) == scores_in(whole)
    assert scores_in(whole)[7] == pytest.approx(1.3)


def saved(folder: Path, record: ScoreRecord) -> Path:
    write_state(folder / SCORES_FILE, record.state())
    return folder


@pytest.mark.parametrize("rule", RECORDED)
def test_a_record_goes_on_in_mid_epoch_as_if_it_had_not_stopped(rule: str, tmp_path: Path) -> None:
    """Some samples are right at the last visit before and wrong at the first one after."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0, ALONE)

    def first_part(record: ScoreRecord) -> None:
        for step in range(SHORT_STEPS + 2):
            record.publish_if_due(step, metrics)
            observe(record, step, [4 * (step % 4) + i for i in range(4)], [step % 5 + 0.1 * i + 0.1 for i in range(4)])

    def second_part(record: ScoreRecord) -> list[float]:
        for step in range(SHORT_STEPS + 2, 2 * SHORT_STEPS):
            observe(record, step, [4, 5, 22, 23], [float(step)] * 4)
        record.publish_if_due(2 * SHORT_STEPS, metrics)
        assert record.board.newest is not None
        return record.board.newest.scores.tolist()

    whole, broken, again = (record_of(rule=rule) for _ in range(3))
    first_part(whole)
    first_part(broken)
    again.restore(saved(tmp_path, broken), SHORT_STEPS + 2)
    assert again.board.newest is not None
    assert broken.board.newest is not None
    np.testing.assert_array_equal(again.board.newest.scores, broken.board.newest.scores)
    scores = second_part(again)
    np.testing.assert_array_equal(scores, second_part(whole))
    assert scores[4] == {"loss": 7.0, "forgetting": 1.0}[rule]


NEEDS = "schedule.examples needs the scores of 32 samples as they were at step 4"


def another_table(folder: Path) -> None:
    write_state(folder / SCORES_FILE, {"scores": torch.zeros(5), "were_right": torch.zeros(5, dtype=torch.bool)})


@pytest.mark.parametrize(
    ("prepare", "found"),
    [
        (lambda folder: None, "holds none"),
        (another_table, "holds those of 5 samples at step None"),
        (lambda folder: saved(folder, record_of()), "holds those of 32 samples at step None"),
    ],
)
def test_a_checkpoint_without_the_scores_that_the_step_needs_is_refused(
    tmp_path: Path, prepare: Callable[[Path], Any], found: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(ValueError, match=f"{NEEDS}, and {tmp_path} {found}"):
        record_of().restore(tmp_path, SHORT_STEPS + 2)


def test_full_epochs_go_on_without_any(tmp_path: Path) -> None:
    record_of().restore(tmp_path, 7 * SHORT_STEPS)
