import math

import augmenting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shared.photographs import photograph
from pipeline.config import AugmentConfig
from pipeline.plan import keyed
from pipeline.plan.keyed import Stream
from pipeline.plan.mixing import NUM_MIX_DRAWS, beta_quantiles, partners, plan_pairs

ALPHAS = [0.05, 0.2, 0.5, 0.8, 1.0, 1.7, 4.0, 30.0, 100.0]


def draws(num_pairs: int, seed: int = 0) -> np.ndarray:
    return keyed.uniform(seed, Stream.MIX, 0, first_row=0, num_rows=num_pairs, num_columns=NUM_MIX_DRAWS)


def beta_share_below(x: float, alpha: float) -> float:
    """Beta(alpha, alpha)'s distribution function for x <= 1/2: its density summed up in 200,000 thin slices.

    They are even in x, or where the density has a pole in x ** alpha, in which it has none.
    """
    power = min(alpha, 1.0)
    v = (np.arange(200_000) + 0.5) / 200_000 * x**power
    mean = np.mean(v ** (alpha / power - 1) * (1 - v ** (1 / power)) ** (alpha - 1))
    return float(mean * x**power / power * math.exp(math.lgamma(2 * alpha) - 2 * math.lgamma(alpha)))


# The weights


@pytest.mark.parametrize("alpha", ALPHAS)
def test_as_much_lies_below_a_quantile_as_it_says(alpha: float) -> None:
    shares = np.array([0.001, 0.02, 0.1, 0.25, 0.4, 0.499])
    for share, x in zip(shares, beta_quantiles(shares, alpha), strict=True):
        assert beta_share_below(x, alpha) == pytest.approx(share, abs=2e-6, rel=1e-4)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_weights_have_the_moments_of_the_beta_distribution(alpha: float) -> None:
    uniform = (np.arange(200_000) + 0.5) / 200_000
    weights = beta_quantiles(uniform, alpha)
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert (np.diff(weights) >= 0).all()
    variance = 1 / (4 * (2 * alpha + 1))
    kurtosis = 3 - 6 / (2 * alpha + 3)
    assert weights.mean() == pytest.approx(0.5, abs=1e-9)
    assert weights.var() == pytest.approx(variance, rel=1e-4)
    assert ((weights - 0.5) ** 4).mean() / variance**2 == pytest.approx(kurtosis, rel=3e-4)


def test_the_quantiles_of_the_two_distributions_with_a_formula_are_exact() -> None:
    uniform = np.linspace(0, 1, 2001)
    np.testing.assert_allclose(beta_quantiles(uniform, 1.0), uniform, atol=1e-7)
    np.testing.assert_allclose(beta_quantiles(uniform, 0.5), np.sin(np.pi / 2 * uniform) ** 2, atol=1e-6)
    # Beta(2, 2): 3 x^2 - 2 x^3.
    x = beta_quantiles(uniform, 2.0)
    np.testing.assert_allclose(3 * x**2 - 2 * x**3, uniform, atol=1e-6)


# The plan of the pairs


@pytest.mark.parametrize(
    ("mixup", "cutmix", "probability", "share", "expected_cut"),
    [(0.8, 0.0, 1.0, 0.5, 0.0), (0.0, 1.0, 1.0, 0.5, 1.0), (0.8, 1.0, 1.0, 0.3, 0.3), (0.8, 1.0, 0.6, 0.3, 0.18)],
)
def test_pairs_are_mixed_as_often_as_asked(
    mixup: float, cutmix: float, probability: float, share: float, expected_cut: float
) -> None:
    augment = AugmentConfig(mixup=mixup, cutmix=cutmix, mix_probability=probability, cutmix_share=share)
    weights, boxes = plan_pairs(draws(20_000), augment, 224)
    cut = boxes.any(axis=1)
    # Boxes thinner than a pixel are none, which takes away a few.
    assert abs(cut.mean() - expected_cut) <= 4.5 * math.sqrt(0.25 / 20_000) + 0.002
    assert abs((weights < 1).mean() - probability) <= 4.5 * math.sqrt(0.25 / 20_000) + 0.002


def test_a_box_covers_the_share_that_the_weight_says() -> None:
    weights, boxes = plan_pairs(draws(5000), AugmentConfig(cutmix=1.0), 32)
    top, left, bottom, right = boxes.T
    assert ((top >= 0) & (left >= 0) & (bottom <= 32) & (right <= 32) & (top <= bottom) & (left <= right)).all()
    for weight, box in zip(weights, boxes, strict=True):
        covered = np.zeros((32, 32))
        covered[box[0] : box[2], box[1] : box[3]] = 1
        assert weight == pytest.approx(1 - covered.mean(), abs=1e-6)


def test_boxes_that_the_border_does_not_cut_are_squares_of_the_drawn_area() -> None:
    drawn = draws(5000)
    _, boxes = plan_pairs(drawn, AugmentConfig(cutmix=1.0), 224)
    inside = (boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2:] < 224).all(axis=1)
    assert inside.sum() > 500
    height, width = (boxes[inside, 2:] - boxes[inside, :2]).T
    assert (height == width).all()
    # Beta(1, 1) is uniform, so the weight that was drawn is the draw.
    assert np.abs(height - 224 * np.sqrt(1 - drawn[inside, 2])).max() <= 2


def test_mixup_alone_has_the_drawn_weights() -> None:
    drawn = draws(1000)
    weights, boxes = plan_pairs(drawn, AugmentConfig(mixup=0.4), 224)
    np.testing.assert_allclose(weights, beta_quantiles(drawn[:, 2], 0.4), atol=1e-4)
    assert not boxes.any()


# Partners and pixels


@given(first_row=st.integers(0, 40), num_rows=st.integers(1, 12))
def test_partners_are_neighbours_of_the_global_batch_where_both_are_here(first_row: int, num_rows: int) -> None:
    for place, partner in enumerate(partners(first_row, num_rows)):
        row = first_row + place
        other = row + 1 if row % 2 == 0 else row - 1
        assert partner == (other - first_row if first_row <= other < first_row + num_rows else place)


def test_images_are_mixed_as_the_slow_way_mixes_them() -> None:
    rng = np.random.default_rng(0)
    images = [photograph(i, 48, 48) for i in range(40)]
    images[0], images[1] = np.zeros_like(images[0]), np.full_like(images[1], 255)
    weights = np.repeat(rng.random(20).astype(np.float32), 2)
    boxes = np.zeros((40, 4), np.int32)
    boxes[20:30] = np.repeat([[0, 0, 48, 48], [3, 40, 9, 48], [7, 1, 8, 2], [0, 9, 48, 20], [1, 1, 47, 47]], 2, axis=0)
    weights[30:34] = 1
    partner = partners(0, 40)
    partner[38:] = [38, 39]
    before = [image.copy() for image in images]
    got = augmenting.mixed_images(images, list(partner), list(weights), list(boxes))
    for row, image in enumerate(got):
        alone = partner[row] == row
        want = images[row] if alone else augmenting.mixed(before[row], before[row ^ 1], weights[row], boxes[row])
        difference = np.abs(image.astype(int) - want)
        assert difference.max() <= (0 if boxes[row].any() or alone else 1)
        assert difference.mean() <= 0.01
        np.testing.assert_array_equal(images[row], before[row])
