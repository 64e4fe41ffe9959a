import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan.schedule import PatchSchedule, ScheduleConfig, Stage, num_kept_at
from pipeline.ramps import KINDS, RATES

PAPER_RATES = [0.2, 0.4, 0.6, 0.8, 1.0]


def schedule(
    kind: str = "linear",
    keep_rate: Any = (0.2, 1.0),
    *,
    total_steps: int = 900,
    steps_per_epoch: int = 90,
    num_patches: int = 196,
    global_batch_size: int = 32,
    seed: int = 0,
    **others: Any,
) -> PatchSchedule:
    rates = list(keep_rate) if isinstance(keep_rate, tuple) else keep_rate
    config = ScheduleConfig(kind=kind, keep_rate=rates, **others)
    return PatchSchedule(config, num_patches, total_steps, steps_per_epoch, global_batch_size, seed)


def all_rates(of: PatchSchedule) -> np.ndarray:
    return of.keep_rates(np.arange(of.total_steps))


# How many patches a keep rate keeps


@pytest.mark.parametrize(("num_patches", "kept"), [(196, [38, 78, 117, 157, 196]), (576, [114, 230, 345, 461, 576])])
def test_the_class_token_is_counted_in_as_in_the_paper(num_patches: int, kept: list[int]) -> None:
    assert [num_kept_at(rate, num_patches) for rate in PAPER_RATES] == kept


@given(st.integers(2, 4000), st.integers(1, 1000))
def test_num_kept_is_the_rounded_share_of_the_tokens(num_patches: int, thousandths: int) -> None:
    exact = Fraction(thousandths, 1000) * (num_patches + 1)
    if exact < 2 or (2 * exact).denominator == 1:
        return  # too few, or a tie that the float nearest to the rate decides
    assert num_kept_at(thousandths / 1000, num_patches) == reference.num_kept(Fraction(thousandths, 1000), num_patches)


@pytest.mark.parametrize("num_patches", [1, 4, 49, 196, 576])
def test_rate_1_keeps_all_patches(num_patches: int) -> None:
    assert num_kept_at(1.0, num_patches) == num_patches


@pytest.mark.parametrize("rate", [0, -0.1, 1.0001, float("nan")])
def test_a_keep_rate_outside_0_to_1_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"a keep rate lies in \(0, 1\], got"):
        num_kept_at(rate, 196)


def test_a_rate_that_keeps_no_patch_comes_with_one_that_does() -> None:
    with pytest.raises(ValueError, match=r"keep rate 0.2 keeps none of 4 patches; .* about 0.3$"):
        num_kept_at(0.2, 4)
    assert num_kept_at(0.3, 4) == 1


# The paper's schedules


@pytest.mark.parametrize(("num_patches", "kept"), [(196, [38, 78, 117, 157, 196]), (576, [114, 230, 345, 461, 576])])
@pytest.mark.parametrize("kind", ["linear", "cyclic"])
def test_the_papers_stages_and_shares(kind: str, num_patches: int, kept: list[int]) -> None:
    stages = schedule(kind, total_steps=90 * 2502, steps_per_epoch=2502, num_patches=num_patches).stages()
    assert [stage.num_kept for stage in stages] == kept
    assert [stage.keep_rate for stage in stages] == PAPER_RATES
    assert [stage.share for stage in stages] == pytest.approx([1 / 9, 2 / 9, 2 / 9, 2 / 9, 2 / 9], abs=1e-9)


def test_a_linear_run_of_900_steps_goes_through_its_stages_in_order() -> None:
    stages = schedule("linear").stages()
    assert [stage.num_steps for stage in stages] == [100, 200, 200, 200, 200]
    assert [(stage.first_step, stage.last_step) for stage in stages] == [
        (0, 99),
        (100, 299),
        (300, 499),
        (500, 699),
        (700, 899),
    ]


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["linear", "cosine", "cyclic"]),
    grid=st.sampled_from([2, 4, 5, 8, 10, 20]),
    points=st.tuples(st.integers(0, 19), st.integers(0, 19)),
    total_steps=st.integers(1, 400),
    steps_per_epoch=st.integers(1, 150),
    rounded=st.booleans(),
)
def test_ramps_follow_the_papers_words(
    kind: str, grid: int, points: tuple[int, int], total_steps: int, steps_per_epoch: int, rounded: bool
) -> None:
    low, high = sorted(1 - Fraction(point % grid, grid) for point in points)
    rounding = Fraction(1, grid) if rounded else None
    made = schedule(
        kind,
        (float(low), float(high)),
        rounding=None if rounding is None else float(rounding),
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        num_patches=10_000,
    )
    period = steps_per_epoch if kind == "cyclic" else total_steps
    for step, rate in enumerate(all_rates(made)):
        allowed = reference.ramp_keep_rates(kind, low, high, rounding, step, period)
        assert any(abs(rate - float(value)) < 1e-8 for value in allowed), (step, rate, allowed)


def test_a_linear_ramp_never_falls_and_a_cosine_ramp_starts_and_ends_slowly() -> None:
    linear, cosine = all_rates(schedule("linear")), all_rates(schedule("cosine"))
    assert (np.diff(linear) >= 0).all()
    assert (np.diff(cosine) >= 0).all()
    assert (cosine == 0.2).sum() > (linear == 0.2).sum()
    assert (cosine == 1.0).sum() > (linear == 1.0).sum()


def test_a_cycle_rises_from_low_to_high_and_falls_back_within_every_epoch() -> None:
    rates = all_rates(schedule("cyclic", total_steps=1000, steps_per_epoch=100)).reshape(10, 100)
    assert (rates == rates[0]).all()
    assert (np.diff(rates[0][:51]) >= 0).all()
    assert (np.diff(rates[0][50:]) <= 0).all()
    assert (rates[0][0], rates[0][50], rates[0][99]) == (0.2, 1.0, 0.2)


def test_without_rounding_the_rate_changes_at_every_step_and_does_not_overshoot() -> None:
    rates = all_rates(schedule("linear", rounding=None, total_steps=800))
    assert rates == pytest.approx(0.2 + 0.8 * (np.arange(800) + 0.5) / 800, abs=1e-9)


def test_a_ramp_from_a_rate_to_itself_is_constant() -> None:
    for kind in ("linear", "cosine", "cyclic"):
        assert set(all_rates(schedule(kind, (0.6, 0.6)))) == {0.6}


# Constant, steps, choice


def test_a_constant_schedule_has_one_stage() -> None:
    (stage,) = schedule("constant", 0.37).stages()
    assert (stage.keep_rate, stage.num_kept, stage.share, stage.num_steps) == (0.37, 72, 1.0, 900)
    assert (stage.first_step, stage.last_step) == (0, 899)


def test_steps_hold_each_rate_from_its_fraction_of_the_run_on() -> None:
    rates = all_rates(schedule("steps", [[0, 0.3], [0.25, 0.5], [0.7, 1.0]], total_steps=10))
    assert rates.tolist() == [0.3] * 3 + [0.5] * 4 + [1.0] * 3  # 0.25 of 10 steps: the first whole step from 2.5 on


def test_steps_are_not_thrown_off_by_float_error() -> None:
    # 0.07 * 100 is 7.000000000000001 in floats.
    rates = all_rates(schedule("steps", [[0, 0.3], [0.07, 1.0]], total_steps=100))
    assert (rates == 0.3).sum() == 7


def test_choice_takes_rates_as_often_as_their_weights_say() -> None:
    made = schedule("choice", [[0.2, 1], [0.5, 0], [0.6, 3], [1.0, 6]], total_steps=20_000)
    counts = [(all_rates(made) == rate).sum() for rate in (0.2, 0.6, 1.0)]
    assert reference.chi_square(counts, [2_000, 6_000, 12_000]) < reference.chi_square_limit(2)
    assert sum(counts) == 20_000, "a rate of weight 0 is never chosen"


def test_choice_depends_on_seed_and_step_only() -> None:
    pairs = [[0.2, 1], [0.6, 1], [1.0, 1]]
    rates = all_rates(schedule("choice", pairs, seed=3))
    longer = schedule("choice", pairs, seed=3, total_steps=5_000, steps_per_epoch=17, global_batch_size=9)
    assert np.array_equal(longer.keep_rates(np.arange(900)), rates)
    assert not np.array_equal(all_rates(schedule("choice", pairs, seed=4)), rates)


# Cooldown


@pytest.mark.parametrize("cooldown", ["2epochs", "180steps", "5760samples"])
@pytest.mark.parametrize(
    ("kind", "keep_rate"),
    [
        ("constant", 0.6),
        ("linear", (0.2, 0.8)),
        ("cosine", (0.2, 0.8)),
        ("cyclic", (0.2, 0.8)),
        ("steps", [[0, 0.2], [0.5, 0.4]]),
        ("choice", [[0.2, 1], [0.4, 1]]),
    ],
)
def test_a_cooldown_ends_every_kind_of_run_at_full_patches(kind: str, keep_rate: Any, cooldown: str) -> None:
    made = schedule(kind, keep_rate, cooldown=cooldown)
    assert made.ramp_steps == 720
    assert (all_rates(made)[720:] == 1.0).all()
    assert (all_rates(made)[:720] < 1.0).all()
    shorter = schedule(kind, keep_rate, total_steps=720)
    assert np.array_equal(all_rates(made)[:720], all_rates(shorter)), "before it, the run is as if it ended there"


def test_a_run_may_be_all_cooldown_but_no_more() -> None:
    assert set(all_rates(schedule("linear", cooldown="900steps"))) == {1.0}
    with pytest.raises(ValueError, match="the cooldown of 901steps is longer than the run of 900 steps; shorten it"):
        schedule("linear", cooldown="901steps")


# The schedule as a map from steps


@settings(max_examples=60, deadline=None)
@given(
    kind_and_rate=st.sampled_from(
        [
            ("constant", 0.5),
            ("linear", (0.2, 1.0)),
            ("cosine", (0.2, 1.0)),
            ("cyclic", (0.2, 1.0)),
            ("steps", [[0, 0.25], [0.3, 0.75]]),
            ("choice", [[0.25, 1], [0.5, 2], [1.0, 1]]),
        ]
    ),
    total_steps=st.integers(1, 300),
    steps_per_epoch=st.integers(1, 100),
    rounding=st.sampled_from([0.2, None]),
    data=st.data(),
)
def test_stages_account_for_every_step(
    kind_and_rate: tuple[str, Any], total_steps: int, steps_per_epoch: int, rounding: float | None, data: st.DataObject
) -> None:
    kind, rate = kind_and_rate
    made = schedule(kind, rate, total_steps=total_steps, steps_per_epoch=steps_per_epoch, rounding=rounding)
    kept = [made.stage(step).num_kept for step in range(total_steps)]
    stages = made.stages()
    assert [stage.num_kept for stage in stages] == sorted(set(kept))
    for stage in stages:
        at = [step for step, num in enumerate(kept) if num == stage.num_kept]
        assert (stage.num_steps, stage.first_step, stage.last_step) == (len(at), at[0], at[-1])
        assert stage.share == pytest.approx(len(at) / total_steps)
        assert num_kept_at(stage.keep_rate, 196) == stage.num_kept
    assert made.mean_keep_rate == pytest.approx(all_rates(made).mean())
    step = data.draw(st.integers(0, total_steps - 1))
    assert made.stage(step) == Stage(float(all_rates(made)[step]), kept[step])


def test_any_steps_may_be_asked_for_in_any_order_and_shape() -> None:
    for kind, rate in [("linear", (0.2, 1.0)), ("choice", [[0.2, 1], [1.0, 1]]), ("steps", [[0, 0.2], [0.5, 1.0]])]:
        made = schedule(kind, rate)
        steps = np.array([[899, 0, 450], [7, 7, 6]])
        assert np.array_equal(made.keep_rates(steps), all_rates(made)[steps])
        assert made.keep_rates(np.array([], dtype=int)).shape == (0,)


def test_a_run_longer_than_memory_would_like_is_summed_up_in_pieces() -> None:
    made = schedule("linear", total_steps=3_000_000, rounding=None)
    stages = made.stages()
    assert len(stages) == 159, "one stage for each of 38 to 196 patches"
    assert sum(stage.num_steps for stage in stages) == 3_000_000
    assert made.mean_keep_rate == pytest.approx(0.6, abs=1e-6)
    assert [stage.first_step for stage in stages[1:]] == [stage.last_step + 1 for stage in stages[:-1]]


@pytest.mark.parametrize("step", [-1, 900])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=f"steps of this run are 0 to 899, got {step} to {step}"):
        schedule().stage(step)


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="a run has at least one step, got 0"):
        schedule(total_steps=0)


def test_a_schedule_that_would_keep_no_patch_is_refused_before_the_run() -> None:
    with pytest.raises(ValueError, match=r"keep rate 0.2 keeps none of 4 patches"):
        schedule("linear", num_patches=4)


@pytest.mark.parametrize("kind", ["linear", "cosine", "cyclic"])
@pytest.mark.parametrize("rounding", [0.2, None])
def test_many_steps_keep_as_many_patches_as_each_of_them_alone(kind: str, rounding: float | None) -> None:
    made = schedule(kind, [0.2, 1.0], total_steps=230, rounding=rounding)
    steps = np.arange(230)
    assert made.nums_kept(steps).tolist() == [num_kept_at(rate, 196) for rate in made.keep_rates(steps).tolist()]
    assert made.nums_kept(steps).tolist() == [made.stage(step).num_kept for step in steps.tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_what_it_is_and_what_it_takes(kind: str) -> None:
    assert f"{kind}: {KINDS[kind].form.text(RATES)}, {KINDS[kind].about}" in (
        ScheduleConfig.model_fields["keep_rate"].description or ""
    )
    with pytest.raises(ValueError, match=f"keep_rate for '{kind}' is {re.escape(KINDS[kind].form.text(RATES))}; got"):
        ScheduleConfig(kind=kind, keep_rate=[])


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'constant', 'linear', 'cosine', 'cyclic', 'steps' or 'choice'"):
        ScheduleConfig(kind="sawtooth")
