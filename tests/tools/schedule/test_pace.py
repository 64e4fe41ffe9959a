import numpy as np
import pytest

from tools.schedule.pace import Measured, left_out_error, straight


def measured(flops: list[float], loader: list[float], step: list[float], strain: float = 1.0) -> Measured:
    both = strain * np.maximum(loader, step)
    return Measured(np.array([10.0, 20.0, 40.0]), np.array(flops), np.array(loader), np.array(step), both)


THREE = measured([1, 2, 5], loader=[3, 3.5, 4], step=[1, 2, 8])


def test_what_was_measured_is_told_as_it_was_measured() -> None:
    strained = measured([1, 2, 5], loader=[3, 3.5, 4], step=[1, 2, 8], strain=1.25)
    told = strained.sides_at(strained.num_kept, strained.flops)
    np.testing.assert_allclose(told.together, strained.both_s)


def test_the_step_follows_its_operations_and_the_loader_the_patches() -> None:
    told = THREE.sides_at(np.array([30.0]), np.array([3.0]))
    assert told.step == pytest.approx(4.0)  # a third of the way from 2 to 5 operations, from 2 s to 8 s
    assert told.loader == pytest.approx(3.75)  # half of the way from 20 to 40 patches, from 3.5 s to 4 s


def test_the_slower_side_is_the_time_of_both_and_may_change_between_two_stages() -> None:
    told = THREE.sides_at(np.array([21.0, 39.0]), np.array([2.1, 4.9]))
    assert told.together[0] == told.loader[0] > told.step[0]
    assert told.together[1] == told.step[1] > told.loader[1]


def test_a_time_that_is_a_quadratic_of_the_tokens_is_told_exactly_over_operations() -> None:
    def seconds(tokens: np.ndarray) -> np.ndarray:
        return 1e-3 * (7 + 2 * tokens + 0.05 * tokens**2)

    tokens, asked = np.array([40.0, 100.0, 197.0]), np.arange(40.0, 198.0)
    flops, of_asked = (2 * one + 0.05 * one**2 for one in (tokens, asked))
    np.testing.assert_allclose(straight(of_asked, flops, seconds(tokens)), seconds(asked))


def test_lines_never_swing_out_between_two_measured_stages() -> None:
    known = np.array([1.0, 1.1, 5.0, 5.2])
    told = straight(np.linspace(1, 4, 301), np.array([1.0, 2.0, 3.0, 4.0]), known)
    assert (np.diff(told) >= 0).all()


def test_below_the_fewest_patches_a_step_costs_no_more_and_no_less_than_its_share() -> None:
    at = np.array([1.0, 5.0])
    assert straight(at, np.array([10.0, 20.0]), np.array([3.0, 4.0])) == pytest.approx([2.1, 2.5])
    assert straight(at, np.array([10.0, 20.0]), np.array([3.0, 9.0])) == pytest.approx([0.3, 1.5])  # not below 0
    assert straight(at, np.array([10.0, 20.0]), np.array([3.0, 2.0])) == pytest.approx([3.0, 3.0])


def test_above_the_most_patches_the_line_goes_on_and_never_falls() -> None:
    assert straight(np.array([30.0]), np.array([10.0, 20.0]), np.array([3.0, 4.0])) == pytest.approx([5.0])
    assert straight(np.array([30.0]), np.array([10.0, 20.0]), np.array([3.0, 2.0])) == pytest.approx([2.0])


def test_the_error_is_that_of_the_stages_told_by_the_others() -> None:
    # Without the middle stage the line gives 1 + 7 / 4 = 2.75 s of the step and 3 + 1 / 3 s of the loader.
    assert left_out_error(THREE) == pytest.approx(abs((3 + 1 / 3) / 3.5 - 1))
    assert left_out_error(THREE.without(0)) is None
