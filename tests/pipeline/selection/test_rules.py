from typing import Any, Literal

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.plan import keyed
from pipeline.plan.keyed import Stream
from pipeline.selection.config import SelectionConfig, rule_from_text, rule_name, select
from pipeline.selection.patches import gather_patches, patchify
from pipeline.selection.rules import contrast_scores, grid_ids, perturbed, top_k


def noise(num_rows: int, num_columns: int, seed: int = 0) -> np.ndarray:
    return keyed.uniform(seed, Stream.SELECTION, 0, first_row=0, num_rows=num_rows, num_columns=num_columns)


def images(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def kept_table(ids_keep: np.ndarray, num_patches: int) -> np.ndarray:
    """bool [B, N]: whether each patch is kept."""
    table = np.zeros((len(ids_keep), num_patches), dtype=bool)
    np.put_along_axis(table, ids_keep.astype(np.int64), True, axis=1)
    return table


# Patches


@pytest.mark.parametrize(("size", "patch_size"), [(8, 4), (12, 4), (6, 1), (6, 6), (15, 5)])
def test_patchify_equals_the_reference(size: int, patch_size: int) -> None:
    batch = images(3, size)
    expected = np.stack([reference.patchify(image, patch_size) for image in batch])
    patches = patchify(batch, patch_size)
    assert patches.dtype == np.uint8
    assert np.array_equal(patches, expected)


@settings(max_examples=50, deadline=None)
@given(grid=st.integers(1, 7), patch_size=st.integers(1, 5), seed=st.integers(0, 99), data=st.data())
def test_gathered_patches_are_those_of_patchify(grid: int, patch_size: int, seed: int, data: st.DataObject) -> None:
    (image,) = images(1, grid * patch_size, seed)
    ids = np.array(data.draw(st.lists(st.integers(0, grid**2 - 1), min_size=1, max_size=20)), dtype=np.int32)
    gathered = gather_patches(image, ids, patch_size)
    assert np.array_equal(gathered, patchify(image[None], patch_size)[0][ids])


def test_patches_are_gathered_from_a_mirrored_view_too() -> None:
    (image,) = images(1, 12)
    ids = np.array([0, 4, 7], dtype=np.int32)
    mirrored = image[:, ::-1]
    assert np.array_equal(gather_patches(mirrored, ids, 4), gather_patches(mirrored.copy(), ids, 4))


# Rules by name


@pytest.mark.parametrize("text", ["random", "grid", "contrast", "magnitude", "magnitude:sketch:6", "magnitude:rows:8"])
def test_a_rule_is_read_as_it_is_named(text: str) -> None:
    assert rule_name(rule_from_text(text)) == text


@pytest.mark.parametrize("text", ["", "contrasts", "magnitude:sketch", "contrast:rows:4", "magnitude:rows:0"])
def test_an_unknown_rule_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match="a rule is random, grid, contrast"):
        rule_from_text(text)


def test_a_temperature_is_part_of_the_name() -> None:
    assert rule_name(SelectionConfig(rule="contrast", temperature=0.5)) == "contrast, temperature 0.5"


# Contrast


@pytest.mark.parametrize(("size", "patch_size"), [(12, 4), (15, 5), (6, 1), (16, 16)])
def test_contrast_equals_the_reference(size: int, patch_size: int) -> None:
    batch = images(3, size)
    scores = contrast_scores(batch, size // patch_size)
    assert scores.dtype == np.float32
    expected = np.stack([reference.contrast(image, patch_size) for image in batch])
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_patches_of_one_colour_have_no_contrast_and_shuffled_ones_have_the_same() -> None:
    (image,) = images(1, 6)
    assert not contrast_scores(np.broadcast_to(image[:1, :1], (1, 6, 6, 3)), 2).any()
    assert contrast_scores(image[None, ::-1, ::-1], 1) == contrast_scores(image[None], 1)


# The best k


@settings(max_examples=200, deadline=None)
@given(data=st.data(), num_rows=st.integers(1, 4), num_patches=st.integers(1, 30))
def test_top_k_equals_the_reference_with_many_ties(data: st.DataObject, num_rows: int, num_patches: int) -> None:
    few_values = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1.0])
    scores = data.draw(hnp.arrays(np.float32, (num_rows, num_patches), elements=few_values))
    num_kept = data.draw(st.integers(1, num_patches))
    ids = top_k(scores, num_kept)
    assert ids.dtype == np.int32
    assert ids.tolist() == [reference.top_k(row.tolist(), num_kept) for row in scores]


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, (3, 17), elements=st.floats(allow_nan=False, width=32)), st.integers(1, 17))
def test_top_k_equals_the_reference_on_any_scores(scores: np.ndarray, num_kept: int) -> None:
    assert top_k(scores, num_kept).tolist() == [reference.top_k(row.tolist(), num_kept) for row in scores]


def test_an_image_of_one_colour_keeps_its_first_patches() -> None:
    assert top_k(np.zeros((2, 196), dtype=np.float32), 38).tolist() == [list(range(38))] * 2


# Temperature


def test_temperature_0_leaves_the_scores_alone() -> None:
    scores = noise(4, 50, seed=1)
    assert np.array_equal(perturbed(scores, noise(4, 50), 0), scores)


@pytest.mark.parametrize("temperature", [1e-9, 1e-45])
def test_a_temperature_near_0_changes_no_choice(temperature: float) -> None:
    scores = noise(50, 196, seed=1)
    assert np.array_equal(top_k(perturbed(scores, noise(50, 196), temperature), 38), top_k(scores, 38))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("num_kept", [1, 2, 3])
def test_patches_are_sampled_with_chances_that_grow_with_the_score(temperature: float, num_kept: int) -> None:
    scores = np.array([0.0, 0.5, 1.0, 1.0, 2.0], dtype=np.float32)
    num_draws = 40_000
    ids = top_k(perturbed(np.tile(scores, (num_draws, 1)), noise(num_draws, 5), temperature), num_kept)
    frequencies = kept_table(ids, 5).mean(axis=0)
    exact = reference.inclusion_chances(np.exp(scores / temperature).tolist(), num_kept)
    # 4.5 standard deviations of a frequency.
    assert (np.abs(frequencies - exact) < 4.5 * np.sqrt(exact * (1 - exact) / num_draws)).all(), (frequencies, exact)


def test_the_extreme_draws_give_finite_scores() -> None:
    edges = np.array([[0, 1 - 2**-24, 0.5]], dtype=np.float32)
    assert np.isfinite(perturbed(np.zeros((1, 3), dtype=np.float32), edges, 1.0)).all()


# The grid rule


@settings(max_examples=200, deadline=None)
@given(grid_size=st.integers(1, 26), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_grid_ids_are_distinct_and_ascending(grid_size: int, share: float, seed: int) -> None:
    num_patches = grid_size**2
    num_kept = max(1, round(share * num_patches))
    phases = np.r_[np.float32(0), np.float32(1 - 2**-24), noise(20, 1, seed)[:, 0]]
    ids = grid_ids(phases, num_kept, grid_size)
    assert ids.shape == (22, num_kept)
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert ids.max() < num_patches
    assert (np.diff(ids, axis=1) > 0).all()


def test_the_grid_rule_with_all_patches_keeps_all_patches() -> None:
    assert np.array_equal(grid_ids(noise(5, 1)[:, 0], 196, 14), np.tile(np.arange(196), (5, 1)))


@pytest.mark.parametrize(("grid_size", "num_kept"), [(14, 38), (14, 117), (7, 9), (24, 114)])
def test_the_grid_rule_keeps_every_patch_equally_often(grid_size: int, num_kept: int) -> None:
    # Evenly spaced phases instead of random ones: the chances are then exact up to the spacing.
    phases = ((np.arange(8192) + 0.5) / 8192).astype(np.float32)
    chances = kept_table(grid_ids(phases, num_kept, grid_size), grid_size**2).mean(axis=0)
    assert chances == pytest.approx(np.full(grid_size**2, num_kept / grid_size**2), abs=1e-3)


def test_a_quarter_of_a_grid_takes_one_patch_of_every_square_of_four() -> None:
    for ids in grid_ids(noise(50, 1)[:, 0], 64, 16):
        rows, columns = np.divmod(ids, 16)
        assert len(set(zip(rows // 2, columns // 2, strict=True))) == 64


@pytest.mark.parametrize(("grid_size", "num_kept"), [(14, 38), (14, 78), (24, 114)])
def test_grid_patches_are_spread_more_evenly_than_random_ones(grid_size: int, num_kept: int) -> None:
    def unevenness(ids: np.ndarray) -> float:
        """Variance of the number of patches kept in a square of a third of the image's side, wherever it lies."""
        kept = kept_table(ids, grid_size**2).reshape(-1, grid_size, grid_size)
        squares = np.lib.stride_tricks.sliding_window_view(kept, (grid_size // 3,) * 2, axis=(1, 2))
        return float(squares.sum(axis=(-1, -2)).var(axis=0).mean())

    grid = unevenness(grid_ids(noise(500, 1)[:, 0], num_kept, grid_size))
    random = unevenness(top_k(noise(500, grid_size**2), num_kept))
    assert grid < random / 2


# Rules


def test_the_random_rule_keeps_every_patch_equally_often() -> None:
    ids = select(None, noise(5000, 49), 10, 7, SelectionConfig(rule="random"))
    counts = kept_table(ids, 49).sum(axis=0)
    # Each row keeps exactly 10 of 49, so counts vary less than independent ones would, by 39 / 48.
    assert reference.chi_square(counts, np.full(49, 5000 * 10 / 49)) * 48 / 39 < reference.chi_square_limit(48)


def test_the_random_rule_keeps_pairs_of_patches_independently_of_their_place() -> None:
    kept = kept_table(select(None, noise(8000, 16), 4, 4, SelectionConfig(rule="random")), 16).astype(float)
    together = (kept.T @ kept)[np.triu_indices(16, 1)] / 8000
    chance = 4 / 16 * 3 / 15
    assert (np.abs(together - chance) < 4.5 * np.sqrt(chance * (1 - chance) / 8000)).all()


def test_the_contrast_rule_keeps_the_patches_that_vary_most() -> None:
    image = np.full((12, 12, 3), 200, dtype=np.uint8)
    image[4:8, 8:12] = images(1, 4)[0]
    image[8:12, 0:4, 0] = 100
    image[8:10, 0:4, 0] = 160
    scores = reference.contrast(image, 4).astype(np.float32)[None]
    assert select(scores, noise(1, 0), 2, 3, SelectionConfig(rule="contrast")).tolist() == [[5, 6]]
    assert select(scores, noise(1, 0), 4, 3, SelectionConfig(rule="contrast")).tolist() == [[0, 1, 5, 6]]


RULES: list[tuple[dict[str, Any], int]] = [
    ({"rule": "random"}, 36),
    ({"rule": "grid"}, 1),
    ({"rule": "contrast"}, 0),
    ({"rule": "contrast", "temperature": 0.1}, 36),
]


@settings(max_examples=60, deadline=None)
@given(rule=st.sampled_from(RULES), num_kept=st.integers(1, 36), batch=st.integers(1, 6), seed=st.integers(0, 999))
def test_every_rule_keeps_distinct_patches_in_raster_order_each_image_by_itself(
    rule: tuple[dict[str, Any], int], num_kept: int, batch: int, seed: int
) -> None:
    selection, num_columns = SelectionConfig(**rule[0]), rule[1]
    scores, drawn = noise(batch, 36, seed), noise(batch, num_columns, seed + 1)
    ids = select(scores, drawn, num_kept, 6, selection)
    assert ids.shape == (batch, num_kept)
    assert ids.dtype == np.int32
    assert (np.diff(ids, axis=1) > 0).all()
    assert ids.min() >= 0
    assert ids.max() < 36
    for row in range(batch):
        one = slice(row, row + 1)
        assert np.array_equal(select(scores[one], drawn[one], num_kept, 6, selection), ids[one])


@pytest.mark.parametrize("rule", ["random", "grid"])
def test_rules_without_a_score_need_no_image(rule: Literal["random", "grid"]) -> None:
    columns = 36 if rule == "random" else 1
    ids = select(None, noise(3, columns), 9, 6, SelectionConfig(rule=rule))
    assert np.array_equal(ids, select(noise(3, 36, seed=5), noise(3, columns), 9, 6, SelectionConfig(rule=rule)))


@pytest.mark.parametrize("rule", [{"rule": "random"}, {"rule": "contrast"}, {"rule": "contrast", "temperature": 0.3}])
def test_more_patches_kept_contain_the_fewer(rule: dict[str, Any]) -> None:
    scores, drawn = noise(8, 49, seed=1), noise(8, 49, seed=2)
    fewer = kept_table(select(scores, drawn, 9, 7, SelectionConfig(**rule)), 49)
    more = kept_table(select(scores, drawn, 30, 7, SelectionConfig(**rule)), 49)
    assert (more | ~fewer).all()
