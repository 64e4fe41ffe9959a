"""Epochs that leave examples out, as ranks plan them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_tables import samples

from pipeline.config import DataConfig
from pipeline.plan.examples import RULES, SampleScores
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig

NUM_SAMPLES, BATCH, FULL_STEPS, TOTAL_STEPS = 200, 12, 16, 80
KEEP, SHORT_STEPS = 0.5, 8  # 80 steps: 7 short epochs and then full ones


def planner(
    rule: str | None = "loss", *, num_samples: int = NUM_SAMPLES, batch: int = BATCH, **data: Any
) -> TrainPlanner:
    examples = None if rule is None else {"rule": rule, "keep": KEEP}
    schedule = ScheduleConfig.model_validate({"examples": examples})
    config = DataConfig(train="a", val="a", num_classes=10, image_size=32, patch_size=8, **data)
    laid = PatchSchedule(schedule, 16, TOTAL_STEPS, num_samples // batch, batch, 0)
    return TrainPlanner(samples(num_samples), config, SelectionConfig(), laid, batch, 3)


def scores_at(step: int, num_samples: int = NUM_SAMPLES) -> SampleScores:
    return SampleScores(step, np.random.default_rng(step).exponential(size=num_samples).astype(np.float32))


@pytest.mark.parametrize("shuffle", ["global", "window"])
@pytest.mark.parametrize("rule", RULES)
def test_a_short_epoch_sees_each_of_its_examples_once_on_any_number_of_ranks(rule: str, shuffle: str) -> None:
    made = planner(rule, shuffle=shuffle, window_shards=2)
    for epoch in (0, 1, 6):
        seen: list[int] = []
        for step in range(epoch * SHORT_STEPS, (epoch + 1) * SHORT_STEPS):
            scores = scores_at(epoch * SHORT_STEPS)
            whole = made.plan(step, scores=scores)
            assert whole.epoch == epoch
            for ranks in (2, 4):
                parts = [
                    planner(rule, shuffle=shuffle, window_shards=2).plan(step, r, ranks, scores) for r in range(ranks)
                ]
                assert np.array_equal(np.concatenate([part.sample_ids for part in parts]), whole.sample_ids)
                if whole.weights is not None:
                    assert np.array_equal(np.concatenate([part.weights for part in parts]), whole.weights)
            seen += whole.sample_ids.tolist()
        assert len(seen) == len(set(seen)) == SHORT_STEPS * BATCH


def test_a_row_weighs_what_its_example_does() -> None:
    made, scores = planner(), scores_at(SHORT_STEPS)
    weight_of: dict[int, float] = {}
    for step in range(SHORT_STEPS, 2 * SHORT_STEPS):
        plan = made.plan(step, scores=scores)
        assert plan.weights is not None
        weight_of |= dict(zip(plan.sample_ids.tolist(), plan.weights.tolist(), strict=True))
    is_hard = scores.scores > scores.scores.mean()
    assert set(np.flatnonzero(is_hard)) <= weight_of.keys()
    num_easy = SHORT_STEPS * BATCH - is_hard.sum()
    wanted = {True: 1.0, False: pytest.approx((~is_hard).sum() / num_easy)}
    assert all(weight == wanted[bool(is_hard[sample])] for sample, weight in weight_of.items())


@pytest.mark.parametrize("rule", RULES)
def test_the_last_eighth_sees_the_same_as_without_the_rule_and_weighs_one_everywhere(rule: str) -> None:
    made, plain = planner(rule), planner(None)
    first = 7 * SHORT_STEPS
    assert made.schedule.epochs.first_step(first) == first
    assert (TOTAL_STEPS - first) * 8 >= TOTAL_STEPS
    for step in range(first, TOTAL_STEPS):
        plan = made.plan(step)
        assert plan.weights is None
        as_in = plan.epoch * FULL_STEPS + step - made.schedule.epochs.first_step(step)
        assert np.array_equal(plan.sample_ids, plain._sample_ids(np.full(BATCH, as_in), np.arange(BATCH)))
        assert not made.needs_scores(step)


@settings(max_examples=30, deadline=None)
@given(step=st.integers(0, 7 * SHORT_STEPS - 1))
def test_a_step_depends_on_the_scores_of_its_own_epoch_alone(step: int) -> None:
    made = planner()
    moment = step - step % SHORT_STEPS
    assert made.needs_scores(step) == (moment > 0)
    if moment:
        with pytest.raises(ValueError, match=f"the scores of all samples at step {moment}, and none are there"):
            made.plan(step)
        with pytest.raises(ValueError, match=f"those at hand are of step {moment - SHORT_STEPS}"):
            made.plan(step, scores=scores_at(moment - SHORT_STEPS))
    else:
        assert np.array_equal(made.plan(step).sample_ids, made.plan(step, scores=scores_at(5)).sample_ids)


def test_an_epoch_of_one_example_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps 1 example of 2 in an epoch, and at least two are needed"):
        planner(num_samples=2, batch=1)
