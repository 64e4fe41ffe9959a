import math

import numpy as np
import pytest
import reference

from pipeline.config import IMAGENET_MEAN, IMAGENET_STD
from pipeline.plan import keyed
from pipeline.plan.erasing import NUM_ERASE_DRAWS, box_noise, noise_tables, plan_boxes
from pipeline.plan.keyed import Stream


def draws(num_rows: int) -> np.ndarray:
    return keyed.uniform(3, Stream.ERASE, 0, first_row=0, num_rows=num_rows, num_columns=NUM_ERASE_DRAWS)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_images_are_erased_as_often_as_asked(probability: float) -> None:
    boxes = plan_boxes(draws(10_000), probability, 224)
    assert abs(boxes.any(axis=1).mean() - probability) <= 4.5 * math.sqrt(probability * (1 - probability) / 10_000)


@pytest.mark.parametrize("image_size", [28, 224])
def test_a_box_is_the_first_that_fits_at_the_drawn_place(image_size: int) -> None:
    drawn = draws(2000)
    for row, box in zip(drawn, plan_boxes(drawn, 1.0, image_size), strict=True):
        for attempt in range(6):
            area = image_size**2 * (0.02 + (1 / 3 - 0.02) * float(row[1 + 2 * attempt]))
            aspect = 0.3 * (1 / 0.3 / 0.3) ** float(row[2 + 2 * attempt])
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < height < image_size and 0 < width < image_size:
                break
        top, left = int(row[-2] * (image_size - height + 1)), int(row[-1] * (image_size - width + 1))
        assert box.tolist() == [top, left, top + height, left + width]


def test_boxes_are_of_all_sizes_shapes_and_places() -> None:
    boxes = plan_boxes(draws(20_000), 1.0, 224)
    shape = boxes[:, 2:] - boxes[:, :2]
    share, aspect = shape.prod(axis=1) / 224**2, shape[:, 0] / shape[:, 1]
    assert share.min() < 0.025
    assert share.max() > 0.31
    assert share.mean() == pytest.approx((0.02 + 1 / 3) / 2, rel=0.03)
    assert aspect.min() < 0.32
    assert aspect.max() > 3.1
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.03)
    assert boxes.min() == 0
    assert boxes.max() == 224


def test_noise_is_normal_around_the_mean_of_each_channel_and_clipped() -> None:
    noise = box_noise(12345, 700, 700, noise_tables(IMAGENET_MEAN, IMAGENET_STD)).reshape(-1, 3)
    normal = np.random.default_rng(0).standard_normal(noise.shape)
    want = np.clip(np.rint(255 * (np.array(IMAGENET_MEAN) + np.array(IMAGENET_STD) * normal)), 0, 255)
    for channel in range(3):
        counts, expected = (np.bincount(x[:, channel].astype(int), minlength=256) for x in (noise, want))
        used = (counts + expected) > 20
        # Two samples of one size: their difference has the variance of the sum.
        chi_square = (((counts - expected) ** 2) / np.maximum(counts + expected, 1))[used].sum()
        assert chi_square < reference.chi_square_limit(int(used.sum()))
    assert np.abs(np.corrcoef(noise.T)[np.triu_indices(3, 1)]).max() < 0.01
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.01


def test_noise_depends_on_its_key_alone() -> None:
    tables = noise_tables(IMAGENET_MEAN, IMAGENET_STD)
    assert np.array_equal(box_noise(7, 5, 9, tables), box_noise(7, 5, 9, tables))
    assert not np.array_equal(box_noise(7, 5, 9, tables), box_noise(8, 5, 9, tables))
    assert box_noise(2**64 - 1, 1, 1, tables).shape == (1, 1, 3)
