import numpy as np
import pytest

from tools.schedule.pace import Measured, Shape, between, left_out_error, straight


def measured(flops: list[float], loader: list[float], step: list[float], strain: float = 1.0) -> Measured:
    return of((kept(10), kept(20), kept(40)), flops, loader, step, strain)


def of(
    shapes: tuple[Shape, ...], flops: list[float], loader: list[float], step: list[float], strain: float = 1.0
) -> Measured:
    both = strain * np.maximum(loader, step)
    return Measured(shapes, np.array(flops), np.array(loader), np.array(step), both)


def kept(num_kept: int, image_size: int = 28, patch_size: int = 4) -> Shape:
    return Shape(num_kept, image_size, patch_size)


THREE = measured([1, 2, 5], loader=[3, 3.5, 4], step=[1, 2, 8])


def test_what_was_measured_is_told_as_it_was_measured() -> None:
    strained = measured([1, 2, 5], loader=[3, 3.5, 4], step=[1, 2, 8], strain=1.25)
    told = strained.sides_at(strained.shapes, strained.flops)
    np.testing.assert_allclose(told.together, strained.both_s)


def test_the_step_follows_its_operations_and_the_loader_the_patches() -> None:
    told = THREE.sides_at([kept(30)], np.array([3.0]))
    assert told.step == pytest.approx(4.0)  # a third of the way from 2 to 5 operations, from 2 s to 8 s
    assert told.loader == pytest.approx(3.75)  # half of the way from 20 to 40 patches, from 3.5 s to 4 s


def test_the_slower_side_is_the_time_of_both_and_may_change_between_two_stages() -> None:
    told = THREE.sides_at([kept(21), kept(39)], np.array([2.1, 4.9]))
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
    assert straight(np.array([40.0]), np.array([10.0, 20.0]), np.array([1.0, 9.0])) == pytest.approx(
        [18.0]
    )  # its share


def test_the_error_is_that_of_the_stages_told_by_the_others() -> None:
    # Without the middle stage the line gives 1 + 7 / 4 = 2.75 s of the step and 3 + 1 / 3 s of the loader.
    assert left_out_error(THREE) == pytest.approx(abs((3 + 1 / 3) / 3.5 - 1))
    assert left_out_error(THREE.without(0)) is None


def test_stages_of_several_sizes_that_cost_the_same_are_told_as_measured_and_what_lies_there_by_their_mean() -> None:
    # 16 coarse patches keep as many pixels as 49 fine ones; 25 patches of two images cost the same.
    shapes = (kept(16, 28, 7), kept(25, 20), kept(25), kept(49))
    several = of(shapes, [2, 3, 3, 6], loader=[5, 1, 3, 8], step=[2, 4, 6, 9])
    told = several.sides_at(shapes, several.flops)
    np.testing.assert_allclose(told.together, several.both_s)
    assert several.sides_at([kept(25, 24)], np.array([3.0])).step == pytest.approx(5 * (1 + 1) / 2)


def test_the_loader_goes_by_kept_pixels_at_each_image_size_and_by_the_images_pixels_between_sizes() -> None:
    shapes = (kept(5, 20), kept(25, 20), kept(9), kept(49))
    loader = [seconds_of(one) for one in shapes]
    several = of(shapes, [1, 5, 2, 9], loader, step=[1e-6] * 4)
    asked = [kept(15, 20), kept(29), kept(20, 24), kept(6, 28, 8)]
    told = several.sides_at(asked, np.array([2.0, 5.0, 4.0, 3.0])).loader
    assert told == pytest.approx([seconds_of(one) for one in asked])


def seconds_of(shape: Shape) -> float:
    """A loader that takes a time for the image, one for its pixels and one for those that are kept."""
    return 1 + 1e-3 * shape.image_size**2 + 2e-3 * shape.kept_pixels


def test_one_measured_image_size_bounds_the_loader_at_smaller_ones() -> None:
    told = THREE.sides_at([kept(20, 20), kept(20)], np.array([2.0, 2.0]))
    assert told.loader[0] == told.loader[1] == 3.5


def test_what_is_measured_twice_at_one_place_counts_in_the_mean() -> None:
    known_at, known = np.array([2.0, 1.0, 2.0]), np.array([8.0, 1.0, 4.0])
    at = np.array([0.5, 1.5, 2.0, 3.0])
    np.testing.assert_allclose(between(at, known_at, known), [1.0, 3.5, 6.0, 6.0])
    np.testing.assert_allclose(straight(at, known_at, known), [0.5, 3.5, 6.0, 9.0])


def test_an_error_needs_a_stage_that_lies_between_two_others() -> None:
    assert left_out_error(of((kept(25), kept(25, 20), kept(16, 28, 7)), [2, 2, 1], [1, 1, 1], [1, 1, 1])) is None
