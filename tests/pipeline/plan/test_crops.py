import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import transforms

from pipeline.config import AugmentConfig
from pipeline.plan import keyed
from pipeline.plan.crops import NUM_CROP_DRAWS, centre_crops, pad_crops, resized_crops
from pipeline.plan.keyed import Stream

SIZES = [(375, 500), (500, 375), (224, 224), (1, 1), (1, 400), (400, 1), (20, 900), (3000, 4000), (33, 32)]


def draws(num_rows: int, seed: int = 0) -> np.ndarray:
    return keyed.uniform(seed, Stream.CROP, 0, first_row=0, num_rows=num_rows, num_columns=NUM_CROP_DRAWS)


# Random resized crops


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (0.5, 2.0)), ((0.25, 0.25), (1.0, 1.0))]
)
def test_resized_crops_equal_the_reference_on_the_same_draws(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    given_draws = draws(300)
    boxes = resized_crops(
        np.full(300, size[0], np.int32),
        np.full(300, size[1], np.int32),
        given_draws,
        AugmentConfig(scale=scale, ratio=ratio),
    )
    assert boxes.dtype == np.float32
    expected = [reference.resized_crop(*size, row.tolist(), scale, ratio) for row in given_draws]
    assert boxes.tolist() == [list(map(float, box)) for box in expected]


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (60, 900)])
def test_resized_crops_equal_torchvisions_on_the_same_draws(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scale, ratio, given_draws = (0.08, 1.0), (3 / 4, 4 / 3), draws(200, seed=1)
    boxes = resized_crops(np.full(200, size[0]), np.full(200, size[1]), given_draws, AugmentConfig())
    tries, places = iter(()), iter(())
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(low + (high - low) * next(tries)))
    monkeypatch.setattr(torch, "randint", lambda low, high, size: torch.tensor([int(next(places) * high)]))
    image = torch.empty(3, *size, dtype=torch.uint8)
    different = 0
    for row, box in zip(given_draws.tolist(), boxes, strict=True):
        tries, places = iter(row[:20]), iter(row[20:])
        top, left, height, width = transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio))
        off = np.abs(box - [top, left, top + height, left + width]).max()
        assert off <= 1
        different += off > 0
    # torchvision draws in float32, so that a side which lies just between two pixels may go the other way.
    assert different <= 2


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)),
    seed=st.integers(0, 1000),
)
def test_a_resized_crop_lies_in_the_image_and_holds_a_pixel(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], seed: int
) -> None:
    augment = AugmentConfig(scale=tuple(sorted(scale)), ratio=tuple(sorted(ratio)))
    top, left, bottom, right = resized_crops(np.full(20, height), np.full(20, width), draws(20, seed), augment).T
    assert ((top >= 0) & (top < bottom) & (bottom <= height)).all()
    assert ((left >= 0) & (left < right) & (right <= width)).all()


def test_images_of_different_sizes_do_not_disturb_one_another() -> None:
    heights, widths = np.array(SIZES).T
    given_draws = draws(len(SIZES))
    together = resized_crops(heights, widths, given_draws, AugmentConfig())
    for row in range(len(SIZES)):
        one = slice(row, row + 1)
        alone = resized_crops(heights[one], widths[one], given_draws[one], AugmentConfig())
        assert np.array_equal(alone, together[one])


def test_crops_cover_the_stated_range_of_areas_and_all_places() -> None:
    boxes = resized_crops(np.full(4000, 512), np.full(4000, 512), draws(4000), AugmentConfig(ratio=(1.0, 1.0)))
    top, left, bottom, right = boxes.T
    share = (bottom - top) * (right - left) / 512**2
    assert share.min() >= 0.079
    counts = np.histogram(share, bins=10, range=(0.08, 1.0))[0]
    assert reference.chi_square(counts, np.full(10, counts.sum() / 10)) < reference.chi_square_limit(9)
    place = top[bottom - top < 500] / (512 - (bottom - top)[bottom - top < 500])
    counts = np.histogram(place, bins=[0, 0.25, 0.5, 0.75, 1.0])[0]
    assert counts.min() > 0.8 * counts.mean()


# Pad crops


def test_pad_crops_take_every_offset_equally_often() -> None:
    boxes = pad_crops(draws(9000)[:, :2], image_size=28, pad_pixels=4)
    assert boxes.dtype == np.float32
    assert (boxes[:, 2:] - boxes[:, :2] == 28).all()
    for axis in (0, 1):
        offsets, counts = np.unique(boxes[:, axis], return_counts=True)
        assert offsets.tolist() == list(range(-4, 5))
        assert reference.chi_square(counts, np.full(9, 1000)) < reference.chi_square_limit(8)


def test_without_padding_a_pad_crop_is_the_image() -> None:
    assert pad_crops(draws(3)[:, :2], 28, 0).tolist() == [[0, 0, 28, 28]] * 3


def test_the_extreme_draws_stay_within_the_padding() -> None:
    edge = np.array([[0, np.float32(1 - 2**-24)]], dtype=np.float32)
    assert pad_crops(edge, 32, 4).tolist() == [[-4, 4, 28, 36]]


# Centre crops


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (256, 256), (301, 277), (64, 800), (100, 120), (1023, 768)])
@pytest.mark.parametrize(("image_size", "crop_fraction"), [(224, 0.875), (224, 0.9), (28, 1.0), (32, 0.8)])
def test_centre_crops_are_torchvisions_resize_and_centre_crop(
    size: tuple[int, int], image_size: int, crop_fraction: float
) -> None:
    """On an image whose values are its own coordinates, torchvision's result shows where it looked."""
    rows = torch.arange(size[0], dtype=torch.float64)[:, None].expand(size) + 0.5
    columns = torch.arange(size[1], dtype=torch.float64)[None, :].expand(size) + 0.5
    resize = transforms.Resize(int(image_size / crop_fraction), antialias=False)
    seen = transforms.CenterCrop(image_size)(resize(torch.stack([rows, columns])))

    top, left, bottom, right = centre_crops(
        np.array([size[0]], np.int32), np.array([size[1]], np.int32), image_size, crop_fraction
    )[0]
    centres = np.arange(image_size) + 0.5
    # Within one output pixel of the border, enlarging repeats the border.
    inner = slice(image_size // 4, -image_size // 4)
    assert seen[0, inner, 0].numpy() == pytest.approx(top + centres[inner] * (bottom - top) / image_size, abs=1e-3)
    assert seen[1, 0, inner].numpy() == pytest.approx(left + centres[inner] * (right - left) / image_size, abs=1e-3)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6000), st.integers(1, 6000), st.integers(1, 500), st.floats(0.05, 1))
def test_a_centre_crop_lies_in_the_image(height: int, width: int, image_size: int, crop_fraction: float) -> None:
    box = centre_crops(np.array([height]), np.array([width]), image_size, crop_fraction)
    top, left, bottom, right = box[0].astype(np.float64)
    assert -1e-3 <= top < bottom <= height * (1 + 1e-6)
    assert -1e-3 <= left < right <= width * (1 + 1e-6)


def test_a_whole_square_image_is_its_own_centre_crop() -> None:
    assert centre_crops(np.array([28]), np.array([28]), 28, 1.0).tolist() == [[0, 0, 28, 28]]
