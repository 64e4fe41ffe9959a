"""Which sample an echoed row shows: a plain function of (step, row), held against a simulation."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_tables import samples

from pipeline.config import AugmentConfig, CacheConfig, DataConfig
from pipeline.plan.echo import plain_steps, views_left
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig

ECHOES, GAPS, BATCHES = st.integers(1, 5), st.integers(1, 4), st.integers(1, 40)


def planner(
    num_samples: int, global_batch_size: int, num_epochs: int, *, echo: int, echo_gap: int = 1, **data: Any
) -> TrainPlanner:
    config = DataConfig(
        **{"train": "a", "val": "a", "num_classes": 10, "image_size": 32, "patch_size": 8, "echo": echo, **data},
        echo_gap=echo_gap if echo > 1 else 1,
    )
    per_epoch = num_samples // global_batch_size
    schedule = PatchSchedule(ScheduleConfig(), 16, num_epochs * per_epoch, per_epoch, global_batch_size, 3)
    return TrainPlanner(samples(num_samples), config, SelectionConfig(rule="random"), schedule, global_batch_size, 3)


def test_without_echo_a_step_shows_its_own_samples() -> None:
    for step in (0, 1, 77):
        assert (plain_steps(step, np.arange(9), 1, 1) == step).all()
        assert (views_left(step, np.arange(9), 1, 1) == 0).all()


def test_two_views_in_neighbouring_steps_as_a_table() -> None:
    """Even rows change their image before even steps, odd rows before odd ones."""
    table = [plain_steps(step, np.arange(4), 2, 1).tolist() for step in range(5)]
    assert table == [[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [1, 2, 1, 2], [2, 2, 2, 2]]


@settings(max_examples=100, deadline=None)
@given(echo=ECHOES, gap=GAPS, num_rows=BATCHES)
def test_every_row_shows_each_plain_step_in_echo_steps_a_gap_apart(echo: int, gap: int, num_rows: int) -> None:
    window, rows = echo * gap, np.arange(num_rows)
    seen: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for step in range(5 * window):
        left = views_left(step, rows, echo, gap)
        for row, shown in enumerate(plain_steps(step, rows, echo, gap).tolist()):
            seen[row, shown].append((step, int(left[row])))
    for (row, shown), views in seen.items():
        steps, left = zip(*views, strict=True)
        assert all(b - a == gap for a, b in pairwise(steps))
        assert list(left) == list(range(left[0], left[0] - len(left), -1))
        if shown >= gap and steps[-1] + gap < 5 * window:  # neither the row's first window nor cut off at the end
            assert len(steps) == echo, (row, shown)
        assert len(steps) <= echo
    for row in range(num_rows):  # none is left out
        shown = sorted(plain for one, plain in seen if one == row)
        assert shown == list(range(len(shown)))


@settings(max_examples=60, deadline=None)
@given(echo=ECHOES, gap=GAPS, num_windows=st.integers(1, 4))
def test_decoding_is_spread_evenly_over_the_steps(echo: int, gap: int, num_windows: int) -> None:
    """In every step past the first few, exactly one row in ``echo`` shows a new image."""
    rows = np.arange(num_windows * echo)
    for step in range(gap, 3 * echo * gap):
        is_new = views_left(step, rows, echo, gap) == echo - 1
        assert is_new.sum() * echo == len(rows)


@settings(max_examples=10, deadline=None)
@given(
    echo=st.integers(2, 3),
    gap=st.integers(1, 3),
    world_size=st.sampled_from([1, 2, 4]),
    rows_per_rank=st.integers(1, 4),
    shuffle=st.sampled_from(["global", "window"]),
    extra=st.integers(0, 9),
)
def test_every_sample_of_a_pass_is_seen_exactly_echo_times_on_one_rank(
    echo: int, gap: int, world_size: int, rows_per_rank: int, shuffle: str, extra: int
) -> None:
    batch = world_size * rows_per_rank
    one = planner(4 * gap * batch + extra, batch, 3 * echo, echo=echo, echo_gap=gap, shuffle=shuffle)
    pass_steps = one.steps_per_epoch * echo  # rows come in up to a window earlier
    seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for step in range(one.schedule.total_steps):
        whole = one.plan(step)
        union = [one.plan(step, rank, world_size).sample_ids for rank in range(world_size)]
        assert np.array_equal(np.concatenate(union), whole.sample_ids)
        plain = plain_steps(step, np.arange(batch), echo, gap)
        for row in np.flatnonzero(plain // one.steps_per_epoch == 1).tolist():  # the second pass over the data
            seen[int(whole.sample_ids[row])].append((step, row))
    assert len(seen) == one.steps_per_epoch * batch
    for views in seen.values():
        steps, rows = zip(*views, strict=True)
        assert len(set(steps)) == echo
        assert len(set(rows)) == 1, "an image keeps its row, hence its rank on any number of ranks"
        assert pass_steps - (echo + 1) * gap <= min(steps) <= max(steps) < 2 * pass_steps + echo * gap


def test_the_views_of_an_image_differ_in_crop_noise_and_augmentation() -> None:
    augment = AugmentConfig(mixup=1.0, erase_probability=1.0, color_jitter=0.4)
    one = planner(64, 8, 8, echo=2, augment=augment)
    first, second = one.plan(10), one.plan(11)
    again = np.flatnonzero(first.views_left == 1)
    assert len(again) == 4
    assert np.array_equal(first.sample_ids[again], second.sample_ids[again])
    assert (first.crops[again] != second.crops[again]).any(axis=1).all()
    assert (first.noise[again] != second.noise[again]).any(axis=1).all()
    assert first.augment is not None
    assert second.augment is not None
    for name in ("mix_weights", "erase_boxes", "jitter"):
        a, b = getattr(first.augment, name), getattr(second.augment, name)
        assert not np.array_equal(a[again], b[again]), name


@pytest.mark.parametrize(("echo", "gap"), [(2, 1), (2, 3), (3, 2)])
def test_an_image_is_mixed_with_two_others_over_its_views(echo: int, gap: int) -> None:
    one = planner(240, 6, 2, echo=echo, echo_gap=gap, augment=AugmentConfig(mixup=1.0))
    partners: dict[int, list[int]] = defaultdict(list)
    for step in range(40):  # within the first pass over the data
        ids = one.plan(step).sample_ids
        for row, sample_id in enumerate(ids.tolist()):
            partners[sample_id].append(int(ids[row ^ 1]))
    whole = [found for found in partners.values() if len(found) == echo]
    assert len(whole) > 40
    assert all(len(set(found)) == 2 for found in whole)


def test_a_planner_without_echo_plans_no_views() -> None:
    plan = planner(64, 8, 2, echo=1).plan(3)
    assert plan.views_left is None
    assert isinstance(plan.rows(0, 2), StepPlan)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"echo": 0}, "greater than or equal to 1"),
        ({"echo": 2, "device": "gpu"}, "echo and cache hold images decoded on a CPU"),
        ({"cache": CacheConfig(kind="memory", max_bytes=9), "device": "gpu"}, "decoded on a CPU"),
        ({"echo": 2, "augment": AugmentConfig(repeats=3)}, "choose one of them"),
        ({"echo_gap": 2}, "echo is 1"),
        ({"cache": {"kind": "disk", "max_bytes": 1}}, "needs a folder"),
        ({"cache": {"kind": "memory", "max_bytes": 1, "folder": "a"}}, "has no folder"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(train="a", val="a", num_classes=2, **values)
