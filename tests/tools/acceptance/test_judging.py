"""What losses say."""

import math

from tools.acceptance.judging import apart, precisions, problem_of_losses, resumed
from tools.acceptance.runs import SmokeRun

FALLING = [2.0 - 0.05 * step for step in range(20)]
EXACT, LOW = SmokeRun("fp32", 0, "cpu", "random"), SmokeRun("bf16", 1, "cpu", "random")


def test_losses_that_fall_and_are_all_there_are_no_problem() -> None:
    assert problem_of_losses(FALLING, 20) is None


def test_a_step_without_a_loss_a_loss_that_is_none_and_one_that_does_not_fall_are_told() -> None:
    assert problem_of_losses(FALLING[:19], 20) == "19 of 20 steps have a loss"
    assert problem_of_losses([], 20) == "0 of 20 steps have a loss"
    assert problem_of_losses([*FALLING[:3], math.nan, *FALLING[4:]], 20) == "the loss of step 3 is nan"
    assert problem_of_losses(FALLING[::-1], 20) == "the loss does not fall: 1.150 at first, 1.900 in the end"
    assert problem_of_losses([2.0] * 20, 20) is not None


def test_the_largest_difference_of_a_step_is_a_share_of_its_loss() -> None:
    assert math.isclose(apart([1.0, 2.2], [1.0, 2.0]), 0.1)
    assert apart(FALLING, FALLING) == 0.0
    assert apart(FALLING[:5], FALLING) == math.inf


def test_bf16_is_compared_with_float32_of_the_same_images_alone() -> None:
    other = SmokeRun("bf16", 0, "gpu", "random")
    [found] = precisions({EXACT: FALLING, LOW: [1.01 * loss for loss in FALLING], other: FALLING})
    assert (found["run"], found["beside"], found["problem"]) == (LOW.name, EXACT.name, None)
    assert math.isclose(found["mean_apart"], 0.01)


def test_bf16_far_from_float32_is_a_problem() -> None:
    [found] = precisions({EXACT: FALLING, LOW: [1.1 * loss for loss in FALLING]})
    assert found["problem"] == f"{LOW.name} and {EXACT.name}: mean losses 10.0% apart"


def test_a_run_that_went_on_is_exact_close_or_a_problem() -> None:
    assert resumed("run", FALLING, FALLING) == {"run": "run", "exact": True, "most_apart": 0.0, "problem": None}
    close = resumed("run", FALLING, [*FALLING[:10], *(1.001 * loss for loss in FALLING[10:])])
    assert (close["exact"], close["problem"]) == (False, None)
    far = resumed("run", FALLING, [*FALLING[:10], *(1.5 * loss for loss in FALLING[10:])])
    assert far["problem"] == "run: losses up to 50.00% apart after it went on"
    assert resumed("run", FALLING, FALLING[:10])["problem"] is not None
