"""Operations on boxes, several pixels at once, against one pixel after another: the same bits, whatever the box."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import augmenting
import kernels_reference as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from plain_machine import on_a_plain_machine

from benchmarks.shared.photographs import photograph
from pipeline.graph.kernels import blurring, pixel_lanes, pixels, sampling, warp
from pipeline.graph.kernels.copying import copy_bytes
from pipeline.graph.kernels.erasing import erase
from pipeline.graph.kernels.pixel_lanes import SPARE
from pipeline.plan import erasing

Box = tuple[int, int, int, int]  # (top, left, height, width)
UNTOUCHED = 77
TABLES = np.ascontiguousarray(erasing.noise_tables((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def noise(seed: int, *shape: int) -> np.ndarray:
    """Half of it at the ends of the range, where sums overflow and blends are cut off."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, shape, dtype=np.uint8)
    return np.where(rng.random(shape) < 0.5, values, rng.choice(np.array([0, 255], np.uint8), shape))


def buffer(content: np.ndarray) -> np.ndarray:
    """The pixels of a box, and room behind them."""
    return np.concatenate([content.reshape(-1), np.full(SPARE, UNTOUCHED, np.uint8)])


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    return image[top : top + height, left : left + width]


@st.composite
def boxes(draw: st.DrawFn, longest: int = 40) -> tuple[int, Box]:
    """The side of an image and a box in it, anywhere or all of it."""
    side = draw(st.integers(1, longest))
    if draw(st.booleans()):
        return side, (0, 0, side, side)
    top, left = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
    return side, (top, left, draw(st.integers(1, side - top)), draw(st.integers(1, side - left)))


SEEDS = st.integers(0, 2**32)
FACTORS = st.floats(-1, 3, width=32).map(np.float32)


def changed(image: np.ndarray, operation: Callable[[np.ndarray, int], None]) -> np.ndarray:
    """What an operation in place makes of pixels."""
    content = buffer(image)
    operation(content, image.size)
    return content[: image.size].reshape(image.shape)


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.integers(1, 40), st.integers(1, 20), FACTORS)
def test_a_blend_with_grey_is_that_of_one_pixel_after_another(
    seed: int, height: int, width: int, factor: np.float32
) -> None:
    image = noise(seed, height, width, 3)
    got = changed(image, lambda content, num: pixels.blend_with_grey(content, num, factor))
    np.testing.assert_array_equal(got, reference.blended_with_grey(image, factor))


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.integers(1, 40), st.integers(1, 20))
def test_a_colour_matrix_is_that_of_one_pixel_after_another(seed: int, height: int, width: int) -> None:
    image, rng = noise(seed, height, width, 3), np.random.default_rng(seed)
    matrix = (rng.normal(0, 1, (3, 4)) * [1, 1, 1, 100]).astype(np.float32).reshape(12)
    got = changed(image, lambda content, num: pixels.multiply(content, num, matrix))
    np.testing.assert_array_equal(got, reference.multiplied(image, matrix))


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.integers(1, 40), st.integers(1, 20), FACTORS)
def test_contrast_goes_by_the_mean_grey_of_all_pixels(seed: int, height: int, width: int, factor: np.float32) -> None:
    image, table = noise(seed, height, width, 3), np.empty(256, np.uint8)
    pixels.contrast_table(buffer(image), image.size, factor, table)
    mean = reference.mean_grey(image)
    np.testing.assert_array_equal(table, [reference.blended(mean, value, factor) for value in range(256)])


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.integers(1, 40), st.integers(1, 20), st.sampled_from([0, 256]))
def test_each_value_is_replaced_by_that_of_its_channels_table(seed: int, height: int, width: int, step: int) -> None:
    image, tables = noise(seed, height, width, 3), noise(seed + 1, 2 * step + 256)
    got = changed(image, lambda content, num: pixels.look_up(content, num, tables, step))
    for channel in range(3):
        np.testing.assert_array_equal(got[..., channel], tables[channel * step :][image[..., channel]])


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.integers(1, 40), st.integers(1, 40), st.integers(1, 255))
def test_an_image_is_stretched_and_equalized_as_in_pillow(seed: int, height: int, width: int, most: int) -> None:
    image, tables = noise(seed, height, width, 3) % most, np.empty(768, np.uint8)
    for make_tables, in_pillow in (
        (pixels.stretch_tables, ImageOps.autocontrast),
        (pixels.equalize_tables, ImageOps.equalize),
    ):
        make_tables(buffer(image), image.size, tables)
        got = changed(image, lambda content, num: pixels.look_up(content, num, tables, 256))
        np.testing.assert_array_equal(got, np.asarray(in_pillow(Image.fromarray(image))))


def around(
    image: np.ndarray, wanted: Box, reach: int, operation: Callable[..., None], number: np.float32
) -> np.ndarray:
    """What an operation makes of a box and of so many pixels on each side, as far as the image goes."""
    side = len(image)
    top, left = max(wanted[0] - reach, 0), max(wanted[1] - reach, 0)
    bottom, right = min(wanted[0] + wanted[2] + reach, side), min(wanted[1] + wanted[3] + reach, side)
    given = (top, left, bottom - top, right - left)
    out = buffer(np.zeros((*wanted[2:], 3), np.uint8))
    operation(buffer(cut(image, given)), np.array(given), out, np.array(wanted), side, number)
    return out[: 3 * wanted[2] * wanted[3]].reshape(*wanted[2:], 3)


@settings(deadline=None, max_examples=150)
@given(SEEDS, boxes(), FACTORS)
def test_a_blend_with_the_smoothed_image_is_that_of_one_pixel_after_another(
    seed: int, where: tuple[int, Box], factor: np.float32
) -> None:
    side, box = where
    image = noise(seed, side, side, 3)
    got = around(image, box, 1, pixels.blend_with_smoothed, factor)
    np.testing.assert_array_equal(got, cut(reference.blended_with_smoothed(image, factor), box))


def test_a_smoothed_number_is_rounded_as_by_a_division_whatever_the_sum() -> None:
    for total in range(13 * 255 + 1):
        assert ((total + 6) * pixel_lanes.OVER_13) >> 16 == (2 * total + 13) // 26


@settings(deadline=None, max_examples=150)
@given(SEEDS, boxes(), st.floats(0.1, 4).map(np.float32))
def test_a_blur_is_that_of_the_whole_image(seed: int, where: tuple[int, Box], sigma: np.float32) -> None:
    side, box = where
    image = noise(seed, side, side, 3)
    got = around(image, box, blurring.blur_radius(sigma), blurring.blur, sigma)
    np.testing.assert_array_equal(got, cut(reference.blurred(image, sigma), box))


def warped(image: np.ndarray, wanted: Box, fixed: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """From no more than ``source_box`` asks for."""
    side, given = len(image), np.empty(4, np.int64)
    warp.source_box(fixed, np.array(wanted), side, given)
    top, left, height, width = given.tolist()
    out = buffer(np.zeros((*wanted[2:], 3), np.uint8))
    warp.warp(buffer(cut(image, (top, left, height, width))), given, out, np.array(wanted), fixed, side, fill)
    return out[: 3 * wanted[2] * wanted[3]].reshape(*wanted[2:], 3)


@st.composite
def warps(draw: st.DrawFn, side: int) -> np.ndarray:
    """From places of the new image to those of the old, in pixels and fixed point: int64 [6]."""
    rng = np.random.default_rng(draw(SEEDS))
    kind = draw(st.sampled_from(["any", "shift", "whole pixels", "shear x", "shear y", "turn", "matrix"]))
    fixed = np.array([1, 0, 0, 0, 1, 0]) * 65536
    start = (rng.integers(-side - 1, side + 2, 2) << 16) + (rng.integers(0, 65536, 2) if kind != "whole pixels" else 0)
    if kind == "any":
        fixed[[0, 1, 3, 4]] = rng.integers(-150_000, 150_000, 4)
    if kind == "shear x":
        fixed[1] = rng.integers(-70_000, 70_000)
    if kind == "shear y":
        fixed[3] = rng.integers(-70_000, 70_000)
    if kind == "turn":
        fixed[[0, 1, 3, 4]] = np.array([0, 1, -1, 0]) * 65536
    fixed[[2, 5]] = start // draw(st.sampled_from([1, 3, 100]))
    if kind == "matrix":  # around the centre, in units of the side, as plans have them
        numbers = np.array([1, 0, 0, 0, 1, 0]) + rng.normal(0, 0.3, 6)
        warp.in_pixels(numbers.astype(np.float32), side, fixed)
    return fixed


@settings(deadline=None, max_examples=300)
@given(SEEDS, boxes(), st.data())
def test_a_warp_is_that_of_one_pixel_after_another(seed: int, where: tuple[int, Box], data: st.DataObject) -> None:
    side, box = where
    image, fill = noise(seed, side, side, 3), np.array([124, 116, 104], np.uint8)
    fixed = data.draw(warps(side))
    np.testing.assert_array_equal(warped(image, box, fixed, fill), cut(reference.warped(image, fixed, fill), box))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**64 - 1), boxes(), boxes())
def test_noise_is_that_of_the_erased_box_wherever_it_is_looked_at(
    key: int, erased: tuple[int, Box], where: tuple[int, Box]
) -> None:
    top, left, height, width = erased[1]
    box_noise = erasing.box_noise(key, height, width, TABLES)
    planned = np.zeros(sampling.LEVELS, np.float32)
    planned[sampling.ERASE_BOX : sampling.ERASE_BOX + 4] = top, left, top + height, left + width
    for place, number in ((sampling.ERASE_KEY, key), (sampling.NOISE_TABLES, TABLES.ctypes.data)):
        planned[place : place + 4] = [number >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    content = np.full((*where[1][2:], 3), UNTOUCHED, np.uint8)
    erase(planned, *where[1], content.reshape(-1))
    whole = np.full((40, 40, 3), UNTOUCHED, np.uint8)
    whole[top : top + height, left : left + width] = box_noise
    np.testing.assert_array_equal(content, cut(whole, where[1]))


@pytest.mark.parametrize("num", [*range(36), 48, 100])
def test_a_copy_is_of_that_many_bytes_and_of_no_more(num: int) -> None:
    source, out = noise(num, num + 1), np.full(num + 20, UNTOUCHED, np.uint8)
    copy_bytes(source.ctypes.data, out.ctypes.data + 1, num)
    np.testing.assert_array_equal(out[1 : num + 1], source[:num])
    assert out[0] == UNTOUCHED
    assert (out[num + 1 :] == UNTOUCHED).all()


def digest_of_all() -> str:
    """Of what each operation makes of one image."""
    image, digest = noise(5, 61, 61, 3), hashlib.sha256()
    box, factor, fill = (3, 0, 50, 61), np.float32(1.7), np.array([124, 116, 104], np.uint8)
    matrix = np.random.default_rng(6).normal(0.3, 0.4, 12).astype(np.float32)
    table = np.empty(256, np.uint8)
    pixels.contrast_table(buffer(image), image.size, factor, table)
    for made in (
        changed(image, lambda content, num: pixels.blend_with_grey(content, num, factor)),
        changed(image, lambda content, num: pixels.multiply(content, num, matrix)),
        around(image, box, 1, pixels.blend_with_smoothed, factor),
        around(image, box, 6, blurring.blur, factor),
        warped(image, box, np.array([65536, 20_000, -300_000, 0, 65536, 12_345]), fill),
        warped(image, box, np.array([60_000, 20_000, -300_000, -20_000, 60_000, 812_345]), fill),
        table,
    ):
        digest.update(made.tobytes())
    return digest.hexdigest()


def test_a_machine_without_wide_vectors_computes_the_same_bits(tmp_path: Path) -> None:
    assert on_a_plain_machine("test_operations", "digest_of_all", tmp_path) == digest_of_all()


@pytest.mark.parametrize("num", [3, 45, 48, 51])
def test_nothing_is_written_further_behind_the_pixels_than_there_is_room(num: int) -> None:
    content = np.concatenate([noise(num, num), np.full(SPARE + 100, UNTOUCHED, np.uint8)])
    pixels.blend_with_grey(content, num, np.float32(0.3))
    pixels.multiply(content, num, np.zeros(12, np.float32))
    assert (content[num + SPARE :] == UNTOUCHED).all()


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (2, 3, 10, 40), (0, 0, 40, 1)])
def test_only_the_erased_box_is_filled_with_the_color(box: tuple[int, int, int, int]) -> None:
    image, color = photograph(0, 40, 40), np.array([1, 2, 3], np.uint8)
    planned, erased = np.zeros(sampling.LEVELS, np.float32), image.copy()
    planned[sampling.ERASE_BOX : sampling.ERASE_BOX + 4], planned[sampling.COLOR : sampling.COLOR + 3] = box, color
    erase(planned, 0, 0, 40, 40, erased.reshape(-1))
    want = augmenting.erased(image, np.array(box), color) if any(box) else image
    np.testing.assert_array_equal(erased, want)
