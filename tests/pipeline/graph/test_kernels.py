from dataclasses import dataclass, replace
from pathlib import Path

import augmenting
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from pixels import assemble

from pipeline.config import DataConfig
from pipeline.graph.kernels import sampling, thumbnail
from pipeline.graph.kernels.patches import select_augment_gather
from pipeline.graph.rows import Choice, kernel_rows, mixing_of
from pipeline.plan.augmentation import AugmentPlan
from pipeline.plan.schedule import Stage
from pipeline.plan.step import StepPlan
from pipeline.selection.config import SelectionConfig, select
from pipeline.selection.kernels.contrast import patch_contrast
from pipeline.selection.kernels.ranking import keep_best
from pipeline.selection.patches import gather_patches, patchify

DATA = DataConfig(train=Path("unused"), val=Path("unused"), num_classes=2)
PIXEL = np.zeros((1, 1, 3), dtype=np.uint8)


def step_plan(flips: np.ndarray, augment: AugmentPlan | None) -> StepPlan:
    """A plan of two rows that are partners, of which only this matters."""
    nothing = np.zeros(2, dtype=np.int64)
    return StepPlan(
        step=0,
        epoch=0,
        stage=Stage(1.0, 1),
        first_row=0,
        sample_ids=nothing,
        labels=nothing,
        crops=np.zeros((2, 4), np.float32),
        flips=flips,
        noise=np.zeros((2, 0), np.float32),
        counted=np.ones(2, dtype=bool),
        augment=augment,
    )


@dataclass(frozen=True)
class Case:
    """Two decoded windows of any size, a crop of each, and how the two are mixed."""

    windows: list[np.ndarray]
    regions: np.ndarray
    flips: np.ndarray
    weight: float
    box: tuple[int, int, int, int]
    grid: int
    patch_size: int

    @property
    def size(self) -> int:
        return self.grid * self.patch_size

    def planned(self, *, ids: np.ndarray | None = None, augment: AugmentPlan | None = None) -> np.ndarray:
        """What the kernels are told; without ids the patches are chosen by contrast."""
        mixing = AugmentPlan(mix_weights=np.full(2, self.weight, np.float32), cut_boxes=np.array([self.box] * 2))
        plan = step_plan(self.flips, augment or mixing)
        windows = np.array([[0, 0, *window.shape[:2]] for window in self.windows])
        choice = Choice(self.grid, "contrast") if ids is None else Choice(self.grid, ids=np.stack([ids] * 2))
        return kernel_rows(plan, DATA, (self.regions, windows), choice, mixing_of(plan))[0]

    def expected(self) -> np.ndarray:
        """The first window's mixture before it is rounded: float64 [S, S, 3]."""
        images = [
            reference.resized_region(window, region, self.size)[:, :: -1 if flipped else 1]
            for window, region, flipped in zip(self.windows, self.regions, self.flips, strict=True)
        ]
        top, left, bottom, right = self.box
        mixed = self.weight * images[0] + (1 - self.weight) * images[1]
        mixed[top:bottom, left:right] = images[1][top:bottom, left:right]
        return mixed


@st.composite
def cases(draw: st.DrawFn) -> Case:
    grid, patch_size = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 4, 7, 16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = draw(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=2, max_size=2))
    whole = draw(st.booleans())  # a training crop is the whole window; a centre crop lies somewhere inside
    corners = [np.sort(rng.random((2, 2)), axis=0) * (1 - 1e-3) + [[0, 0], [1e-3, 1e-3]] for _ in shapes]
    regions = np.stack(
        [([0, 0, 1, 1] if whole else c.reshape(-1)) * np.tile(s, 2) for c, s in zip(corners, shapes, strict=True)]
    )
    size = grid * patch_size
    how = draw(st.sampled_from(["alone", "mixup", "cutmix"]))
    edges = np.sort(rng.integers(0, size + 1, (2, 2)), axis=0)
    if how != "cutmix" or (edges[0] == edges[1]).any():
        edges = np.zeros((2, 2), dtype=int)
    return Case(
        [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes],
        regions.astype(np.float32),
        rng.random(2) < 0.5,
        float(np.float32(rng.random())) if how == "mixup" else 1.0,
        (int(edges[0, 0]), int(edges[0, 1]), int(edges[1, 0]), int(edges[1, 1])),
        grid,
        patch_size,
    )


def run(case: Case, ids: np.ndarray, *, scored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(kept int32 [K], patches uint8 [K, P*P*3])."""
    return carried_out(case.windows, case.planned(ids=None if scored else ids), len(ids), case.patch_size)


def carried_out(
    images: list[np.ndarray], planned: np.ndarray, num_kept: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    kept = np.full(num_kept, -1, dtype=np.int32)
    patches, rest = (np.zeros((num, size, size, 3), dtype=np.uint8) for num in (num_kept, 0))
    select_augment_gather((images[0], images[1]), (PIXEL, PIXEL), planned, kept, patches, rest)
    return kept, patches.reshape(num_kept, -1)


@settings(deadline=None, max_examples=150)
@given(cases(), st.data())
def test_kept_patches_are_those_of_the_whole_image_resized_mirrored_and_mixed(case: Case, data: st.DataObject) -> None:
    num_patches = case.grid**2
    chosen = data.draw(st.sets(st.integers(0, num_patches - 1), min_size=1))
    ids = np.array(sorted(chosen), dtype=np.int32)
    kept, patches = run(case, ids)
    np.testing.assert_array_equal(kept, ids)
    expected = patchify(case.expected()[None], case.patch_size)[0][ids]
    # Rounded once, or each image on its own and then their mixture; and weights are whole numbers.
    assert np.abs(patches - expected).max() <= (0.6 if case.weight == 1 else 1.1)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_a_mixture_is_exactly_that_of_the_two_images_resampled_alone(case: Case) -> None:
    """As the other route mixes them, for both of the pair."""
    ids, boxes = np.arange(case.grid**2, dtype=np.int32), np.array([case.box] * 2)
    pair = [case, replace(case, windows=case.windows[::-1], regions=case.regions[::-1], flips=case.flips[::-1])]
    alone = [run(replace(one, weight=1.0, box=(0, 0, 0, 0)), ids)[1] for one in pair]
    images = [assemble(patches[None], case.patch_size)[0] for patches in alone]
    mixed = augmenting.mixed_images(images, np.array([1, 0]), [np.float32(case.weight)] * 2, boxes)
    for one, expected in zip(pair, mixed, strict=True):
        np.testing.assert_array_equal(run(one, ids)[1], patchify(expected[None], case.patch_size)[0])


@settings(deadline=None, max_examples=50)
@given(cases(), st.data())
def test_a_scored_choice_is_ascending_and_its_patches_are_what_they_are_when_given(
    case: Case, data: st.DataObject
) -> None:
    num_kept = data.draw(st.integers(1, case.grid**2))
    kept, patches = run(case, np.zeros(num_kept, dtype=np.int32), scored=True)
    assert (np.diff(kept) > 0).all()
    assert 0 <= kept[0] <= kept[-1] < case.grid**2
    again, same = run(case, kept)
    np.testing.assert_array_equal(again, kept)
    np.testing.assert_array_equal(same, patches)


@settings(deadline=None, max_examples=50)
@given(cases(), st.data())
def test_what_lies_around_the_window_is_as_if_it_were_not_there(case: Case, data: st.DataObject) -> None:
    num_kept, scored = data.draw(st.integers(1, case.grid**2)), data.draw(st.booleans())
    ids = np.arange(num_kept, dtype=np.int32)
    margins = np.array(data.draw(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=2, max_size=2)))
    rng, images, corners = np.random.default_rng(num_kept), [], []
    for window, (top, left, bottom, right) in zip(case.windows, margins, strict=True):
        height, width, _ = window.shape
        image = rng.integers(0, 256, (top + height + bottom, left + width + right, 3), dtype=np.uint8)
        image[top : top + height, left : left + width] = window
        images.append(image)
        corners.append((top, left, top + height, left + width))
    planned = case.planned(ids=None if scored else ids)
    planned[sampling.OWN_WINDOW : sampling.OWN_WINDOW + 4] = corners[0]
    planned[sampling.PARTNER_WINDOW : sampling.PARTNER_WINDOW + 4] = corners[1]
    kept, patches = carried_out(images, planned, num_kept, case.patch_size)
    expected_kept, expected = run(case, ids, scored=scored)
    np.testing.assert_array_equal(kept, expected_kept)
    np.testing.assert_array_equal(patches, expected)


def tiled(contrasts: np.ndarray, cell: int, mirrored: bool = False) -> np.ndarray:
    """uint8 [G * cell, G * cell, 3]: each cell vertical stripes, two pixels wide, of this strength around mid-grey."""
    stripes = np.where(np.arange(cell) // 2 % 2, 1, -1)
    strength = np.kron(contrasts[:, ::-1] if mirrored else contrasts, np.ones((cell, cell)))
    picture = 128 + strength * np.tile(stripes, contrasts.shape[1])[None]
    return np.repeat(picture[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("cell", [8, 16, 23, 40])
def test_a_thumbnail_ranks_patches_by_their_contrast(cell: int, mirrored: bool) -> None:
    contrasts = np.random.default_rng(cell).permutation(16).reshape(4, 4) * 8
    window = tiled(contrasts, cell, mirrored)
    region = np.array([[0, 0, *window.shape[:2]]] * 2, dtype=np.float32)
    case = Case([window, window], region, np.array([mirrored] * 2), 1.0, (0, 0, 0, 0), 4, 16)
    kept, _ = run(case, np.zeros(5, dtype=np.int32), scored=True)
    assert kept.tolist() == reference.top_k(contrasts.reshape(-1).tolist(), 5)


def test_a_thumbnail_scores_flat_patches_zero_and_keeps_the_lower_index_among_them() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    window = np.kron(colours, np.ones((20, 20, 1), dtype=np.uint8))
    window[40:60, 60:80] = np.random.default_rng(1).integers(0, 256, (20, 20, 3))
    case = Case([window] * 2, np.array([[0, 0, 80, 80]] * 2, np.float32), np.zeros(2, bool), 1.0, (0, 0, 0, 0), 4, 16)
    scores = thumbnail.thumbnail_contrast(window, window, case.planned(), 16)
    inside = np.delete(scores, 11)
    assert scores.argmax() == 11
    assert (inside < 0.5 * scores[11]).all()
    assert (inside[:4] == 0).sum() >= 1
    flat = Case(
        [window[:20, :20].copy()] * 2, np.array([[0, 0, 20, 20]] * 2, np.float32), *([*case.__dict__.values()][2:])
    )
    kept, _ = run(flat, np.zeros(7, dtype=np.int32), scored=True)
    assert kept.tolist() == list(range(7))


def test_what_is_mixed_in_shows_in_the_thumbnail() -> None:
    """The flat image is given half of a striped one, or the stripes of its lower half."""
    flat, striped = np.full((64, 64, 3), 90, dtype=np.uint8), tiled(np.full((4, 4), 60), 16)
    regions = np.array([[0, 0, 64, 64]] * 2, dtype=np.float32)
    blended = Case([flat, striped], regions, np.zeros(2, bool), 0.5, (0, 0, 0, 0), 4, 16)
    pure = Case([striped, flat], regions, np.zeros(2, bool), 1.0, (0, 0, 0, 0), 4, 16)
    scores = [thumbnail.thumbnail_contrast(*case.windows, case.planned(), 16) for case in (blended, pure)]
    np.testing.assert_allclose(scores[0], scores[1] / 2, rtol=0.02)
    cut = Case([flat, striped], regions, np.zeros(2, bool), 1.0, (32, 0, 64, 64), 4, 16)
    kept, _ = run(cut, np.zeros(8, dtype=np.int32), scored=True)
    assert kept.tolist() == list(range(8, 16))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([1, 2, 4, 16]), st.sampled_from([0.0, 0.05]), st.data()
)
def test_the_choice_on_whole_images_is_numpys_to_the_last_tie(
    seed: int, grid: int, patch_size: int, temperature: float, data: st.DataObject
) -> None:
    rng, side = np.random.default_rng(seed), grid * patch_size
    image = rng.integers(0, data.draw(st.sampled_from([2, 256])), (side, side, 3), dtype=np.uint8)
    scores = patch_contrast(image, patch_size)
    np.testing.assert_array_equal(scores.astype(np.float32), reference.exact_contrast(image, patch_size))
    num_kept = data.draw(st.integers(1, grid**2))
    noise = rng.random(grid**2, dtype=np.float32)
    selection = SelectionConfig(rule="contrast", temperature=temperature)
    expected = select(scores[None].astype(np.float32), noise[None], num_kept, grid, selection)[0]
    kept = np.zeros(num_kept, dtype=np.int32)
    keep_best(scores.copy(), noise, np.float32(temperature), kept)
    # Through a logarithm the last bit may differ; without it nothing does.
    assert (kept != expected).sum() == 0 if temperature == 0 else (kept != expected).mean() <= 0.5
    square = step_plan(np.zeros(2, dtype=bool), None)
    told = kernel_rows(square, DATA, None, Choice(grid, ids=np.stack([expected] * 2)), mixing_of(square))[0]
    found, patches = carried_out([image, image], told, num_kept, patch_size)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(patches, gather_patches(image, found, patch_size))
    if temperature == 0:
        told = kernel_rows(square, DATA, None, Choice(grid, "contrast"), mixing_of(square))[0]
        np.testing.assert_array_equal(carried_out([image, image], told, num_kept, patch_size)[0], expected)
