"""Boxes of a resized image: exact whatever the box, and as near the definition as whole numbers allow."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_machine import on_a_plain_machine

from benchmarks.shared.photographs import photograph
from pipeline.graph.kernels.boxes import box_scratch, resample_box
from pipeline.graph.kernels.sampling import axis_weights

ONE = 2**14  # what weights add up to


@dataclass(frozen=True)
class Resize:
    """A region (top, left, bottom, right) of an image, of which nothing outside a window counts, to a square."""

    image: np.ndarray
    window: tuple[int, int, int, int]
    region: np.ndarray
    size: int

    def box(self, top: int, left: int, shape: tuple[int, int, int], mirrored: bool = False) -> np.ndarray:
        """uint8 [n, h, w, 3] for a shape (n, h, w)."""
        filters = [
            axis_weights(self.region[axis], self.region[axis + 2], self.window[axis], self.window[axis + 2], self.size)
            for axis in (0, 1)
        ]
        out = np.full((*shape, 3), 77, dtype=np.uint8)
        resample_box(self.image, *filters, top, left, mirrored, out[:, :, :], box_scratch(self.image, filters[1]))
        return out

    def whole(self) -> np.ndarray:
        return self.box(0, 0, (1, self.size, self.size))[0]


@st.composite
def resizes(draw: st.DrawFn, longest: int = 60) -> Resize:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    inner = np.array([draw(st.integers(1, longest)), draw(st.integers(1, longest))])
    start, behind = rng.integers(0, 9, (2, 2)) * draw(st.booleans())
    image = rng.integers(0, 256, (*(start + inner + behind), 3), dtype=np.uint8)
    corners = np.sort(rng.random((2, 2)), axis=0) * (1 - 1e-3) + [[0, 0], [1e-3, 1e-3]]
    if draw(st.booleans()):
        corners = np.array([[0, 0], [1, 1]])
    top, left, bottom, right = (int(edge) for edge in (*start, *(start + inner)))
    region = (corners * inner).reshape(-1).astype(np.float32)
    return Resize(image, (top, left, bottom, right), region, draw(st.integers(1, 50)))


@settings(deadline=None, max_examples=200)
@given(resizes(), st.booleans(), st.data())
def test_any_box_is_that_part_of_the_whole_image(resize: Resize, mirrored: bool, data: st.DataObject) -> None:
    top, left = (data.draw(st.integers(0, resize.size - 1)) for _ in range(2))
    height, columns = (data.draw(st.integers(1, resize.size - start)) for start in (top, left))
    tiles = data.draw(st.sampled_from([n for n in range(1, columns + 1) if columns % n == 0]))
    got = resize.box(top, left, (tiles, height, columns // tiles), mirrored)
    expected = resize.whole()[top : top + height, left : left + columns][:, :: -1 if mirrored else 1]
    np.testing.assert_array_equal(np.concatenate(list(got), axis=1), expected)


def test_a_box_within_a_larger_array_leaves_the_rest_of_it_alone() -> None:
    rng = np.random.default_rng(0)
    resize = Resize(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), (0, 0, 40, 50), np.float32([0, 0, 40, 50]), 32)
    rows, columns = (axis_weights(np.float32(0), np.float32(end), 0, end, 32) for end in (40, 50))
    expected = np.full((3, 16, 16, 3), 77, dtype=np.uint8)
    got = expected.copy()
    for height, width in ((1, 1), (4, 4), (5, 7), (9, 11)):
        box = got[1:2, 2 : 2 + height, 5 : 5 + width]
        resample_box(resize.image, rows, columns, 3, 6, False, box, box_scratch(resize.image, columns))
        expected[1, 2 : 2 + height, 5 : 5 + width] = resize.whole()[3 : 3 + height, 6 : 6 + width]
        np.testing.assert_array_equal(got, expected)


@settings(deadline=None, max_examples=100)
@given(resizes(longest=400), st.lists(st.integers(0, 255), min_size=3, max_size=3))
def test_one_colour_comes_out_as_exactly_that_colour(resize: Resize, colour: list[int]) -> None:
    top, left, bottom, right = resize.window
    resize.image[top:bottom, left:right] = colour
    assert (resize.whole() == colour).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 50), st.integers(0, 9), st.integers(0, 9))
def test_at_scale_one_and_whole_offsets_pixels_are_left_as_they_are(seed: int, size: int, top: int, left: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (size + 12, size + 14, 3), dtype=np.uint8)
    region = np.array([top, left, top + size, left + size], dtype=np.float32)
    resize = Resize(image, (0, 0, size + 12, size + 14), region, size)
    np.testing.assert_array_equal(resize.whole(), image[top : top + size, left : left + size])


@settings(deadline=None, max_examples=60)
@given(resizes(longest=120))
def test_noise_is_resized_within_a_level_of_the_definition(resize: Resize) -> None:
    top, left, bottom, right = resize.window
    exact = reference.resized_region(resize.image[top:bottom, left:right], resize.region, resize.size)
    assert np.abs(resize.whole() - np.rint(exact)).max() <= 1
    assert np.abs(resize.whole() - exact).max() <= 0.6


@pytest.mark.parametrize("region", [(0, 0, 75, 100), (10, 5, 75, 68), (3, 2, 40, 30), (7, 31, 60, 99)])
def test_a_photograph_is_resized_to_the_nearest_level_nearly_everywhere(region: tuple[int, int, int, int]) -> None:
    image = photograph(3, 100, 75)
    resize = Resize(image, (0, 0, 75, 100), np.array(region, dtype=np.float32), 48)
    exact = reference.resized_region(image, region, 48)
    assert np.abs(resize.whole() - exact).max() <= 0.51
    assert (resize.whole() != np.rint(exact)).mean() <= 0.005


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 300), st.floats(0.01, 300), st.integers(0, 50), st.integers(1, 100))
def test_weights_are_the_triangle_filters_and_add_up_to_one_exactly(
    start: float, length: float, before: int, size: int
) -> None:
    num_pixels = int(np.ceil(start + length))
    first, count, weights = axis_weights(start, start + length, before, before + num_pixels, size)
    assert (weights.sum(axis=1, dtype=np.int64) == ONE).all()
    assert weights.min() >= 0
    assert weights.shape[1] % 2 == 0
    assert (np.diff(first) >= 0).all()
    scale = length / size
    for i in range(size):
        pixels = np.arange(first[i], first[i] + count[i])
        assert before <= pixels[0] <= pixels[-1] < before + num_pixels
        exact = np.maximum(1 - np.abs(pixels - before + 0.5 - start - (i + 0.5) * scale) / max(scale, 1), 0)
        assert np.abs(weights[i, : count[i]] / ONE - exact / exact.sum()).max() <= 1 / ONE
        assert (weights[i, count[i] :] == 0).all()


def digest_of_many() -> str:
    """Of regions of one image that grow, stay and shrink, by up to 4 pairs of weights and more."""
    image = photograph(5, 150, 110)
    digest = hashlib.sha256()
    for size in (7, 20, 48, 96, 130):
        for region in ((0, 0, 110, 150), (10.5, 3.25, 60, 70), (1, 2, 9, 150)):
            resize = Resize(image, (0, 0, 110, 150), np.array(region, dtype=np.float32), size)
            digest.update(resize.whole().tobytes())
    return digest.hexdigest()


def test_a_machine_without_wide_vectors_computes_the_same_bits(tmp_path: Path) -> None:
    assert on_a_plain_machine("test_boxes", "digest_of_many", tmp_path) == digest_of_many()
