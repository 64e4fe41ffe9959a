"""Scores and ranks where the images are, in torch. A CPU is such a place too."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.shared.photographs import photograph
from pipeline.graph.on_device import (
    all_on_device,
    contrast_on_device,
    leading_bits,
    magnitude_scores,
    open_device_scores,
    perturbed_on_device,
    ranked_on_device,
)
from pipeline.selection.config import SelectionConfig, open_scores, select
from pipeline.selection.magnitude import EmbeddingSnapshot, MagnitudeScorer
from pipeline.selection.patches import ids_dropped
from pipeline.selection.rules import RULES, contrast_scores, gumbel, perturbed

CPU = torch.device("cpu")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
DEVICES = pytest.mark.parametrize(
    "device", [CPU, pytest.param(torch.device("cuda", 0), marks=[pytest.mark.gpu, NO_GPU])]
)


def contrast(image: np.ndarray, patch_size: int) -> np.ndarray:
    """float32 [N]."""
    return contrast_on_device(torch.from_numpy(image)[None], len(image) // patch_size)[0].numpy()


def whole_snapshot(positions: bool, dim: int = 12, num_values: int = 48, num_patches: int = 49) -> EmbeddingSnapshot:
    """Of small whole numbers, which are added without an error in any order, so that equal patches score alike."""
    rng = np.random.default_rng(1)
    kernel, offsets = (
        rng.integers(-3, 4, (dim, num_values)),
        rng.integers(-50, 50, (num_patches if positions else 1, dim)),
    )
    return EmbeddingSnapshot(0, kernel.astype(np.float32), offsets.astype(np.float32), np.zeros(num_values, np.float32))


def boxes(count: int, size: int = 28) -> np.ndarray:
    """Images uint8 [B, S, S, 3] with many equal patches: a box of noise on black."""
    images = np.zeros((count, size, size, 3), np.uint8)
    for number, image in enumerate(images):
        rng = np.random.default_rng(number)
        top, left = rng.integers(0, size // 2, 2)
        image[top : top + 9, left : left + 12] = rng.integers(0, 256, image[top : top + 9, left : left + 12].shape)
    return images


def ranked(scores: np.ndarray, num_kept: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    kept, dropped = ranked_on_device(torch.from_numpy(scores).to(device), num_kept)
    assert kept.dtype == dropped.dtype == torch.int32
    return kept.cpu().numpy(), dropped.cpu().numpy()


@pytest.mark.parametrize(("image_size", "patch_size"), [(28, 4), (32, 16), (32, 1), (32, 32)])
def test_contrast_is_numpys_standard_deviation(image_size: int, patch_size: int) -> None:
    image = photograph(5, image_size, image_size)
    got = contrast(image, patch_size)
    np.testing.assert_allclose(got, reference.contrast(image, patch_size), atol=1e-6)


def test_patches_of_one_colour_have_no_contrast_at_all() -> None:
    for colour in ((0, 0, 0), (1, 1, 1), (255, 255, 255), (255, 0, 77), (12, 130, 250)):
        image = np.tile(np.array(colour, np.uint8), (224, 224, 1))
        assert not contrast(image, 16).any()


def test_equal_patches_have_equal_contrast_wherever_they_are() -> None:
    patch = photograph(1, 16, 16)
    scores = contrast(np.tile(patch, (14, 14, 1)), 16)
    assert (scores == scores[0]).all()


@DEVICES
def test_every_pixel_rule_scores_on_a_device_as_in_memory(device: torch.device) -> None:
    images = np.stack([photograph(seed, 32, 32) for seed in range(3)])
    for name in [name for name, rule in RULES.items() if rule.looks_at == "pixels"]:
        selection = SelectionConfig(rule=name)
        score, on_device = open_scores(selection, 4), open_device_scores(selection, 4, device)
        assert score is not None
        assert on_device is not None
        found = on_device(torch.from_numpy(images).to(device))
        assert found.device == device
        np.testing.assert_array_equal(found.cpu().numpy(), score(list(images)))


def test_a_rule_without_torch_of_its_own_scores_copies_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.graph.on_device._IN_TORCH", {})
    test_every_pixel_rule_scores_on_a_device_as_in_memory(CPU)


def test_a_planned_rule_scores_nothing_on_a_device() -> None:
    assert open_device_scores(SelectionConfig(rule="random"), 4, CPU) is None


def test_many_images_are_scored_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.graph.on_device._IMAGES_AT_A_TIME", 3)
    images, on_device = boxes(8), open_device_scores(SelectionConfig(rule="contrast"), 7, CPU)
    assert on_device is not None
    np.testing.assert_array_equal(on_device(torch.from_numpy(images)).numpy(), contrast_scores(images, 7))


@DEVICES
@pytest.mark.parametrize("estimate", ["none", "rows", "sketch"])
@pytest.mark.parametrize("positions", [True, False])
def test_magnitude_ranks_on_a_device_as_in_memory_equal_patches_too(
    device: torch.device, positions: bool, estimate: str
) -> None:
    selection = SelectionConfig(rule="magnitude", estimate=estimate, estimate_size=5)
    scorer = MagnitudeScorer(whole_snapshot(positions), selection, 7, 0)
    images = boxes(20)
    found = magnitude_scores(scorer, device)(torch.from_numpy(images).to(device)).cpu().numpy()
    np.testing.assert_allclose(found, scorer.scores(images), rtol=1e-4)
    if estimate == "none":  # a sketch is of no whole numbers, nor is the scale of a part of the rows
        np.testing.assert_array_equal(found, scorer.scores(images))


def test_of_a_kernel_in_two_parts_tf32_loses_a_millionth_where_of_the_whole_it_loses_a_thousandth() -> None:
    """Pixels have fewer bits than it leaves, and products are added in float32."""

    def lost_in_tf32(numbers: np.ndarray) -> float:
        rounded = ((numbers.view(np.int32) + 0x1000) & ~0x1FFF).view(np.float32)
        return float(np.abs(rounded - numbers).max())

    kernel = np.random.default_rng(0).standard_normal((12, 48)).astype(np.float32)
    leading = leading_bits(kernel)
    assert lost_in_tf32(kernel) > 2.0**-12
    assert lost_in_tf32(leading) == 0
    assert lost_in_tf32(kernel - leading) <= 2.0**-21 * np.abs(kernel).max()


# Ranks


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_ranks_are_those_of_the_reference_equal_scores_in_the_order_of_their_patches(data: st.DataObject) -> None:
    num_patches = data.draw(st.integers(1, 30))
    num_kept = data.draw(st.integers(1, num_patches))
    values = st.lists(st.sampled_from([0.0, 0.25, 1.0, 1e-30, 7.0]), min_size=num_patches, max_size=num_patches)
    scores = np.array(data.draw(st.lists(values, min_size=1, max_size=4)), np.float32)
    kept, dropped = ranked(scores, num_kept, CPU)
    assert kept.tolist() == [reference.top_k(row, num_kept) for row in scores.tolist()]
    np.testing.assert_array_equal(dropped, ids_dropped(kept, num_patches))


@DEVICES
@pytest.mark.parametrize("temperature", [0, 0.05, 1.7])
@pytest.mark.parametrize("num_kept", [1, 38, 117, 195, 196])
def test_ranks_on_a_device_are_those_of_the_selection_in_memory(
    device: torch.device, num_kept: int, temperature: float
) -> None:
    rng = np.random.default_rng(num_kept)
    scores = rng.integers(0, 40, (50, 196)).astype(np.float32) / 7
    noise = rng.integers(0, 2**24, scores.shape).astype(np.float32) / 2**24
    ranks = torch.from_numpy(scores).to(device)
    if temperature > 0:
        ranks = perturbed_on_device(ranks, torch.from_numpy(gumbel(noise)).to(device), temperature)
        np.testing.assert_array_equal(ranks.cpu().numpy(), perturbed(scores, noise, temperature))
    kept, dropped = ranked_on_device(ranks, num_kept)
    selection = SelectionConfig(rule="contrast", temperature=temperature)
    np.testing.assert_array_equal(kept.cpu().numpy(), select(scores, noise, num_kept, 14, selection))
    np.testing.assert_array_equal(dropped.cpu().numpy(), ids_dropped(kept.cpu().numpy(), 196))


def test_where_all_patches_are_kept_no_score_is_needed_to_rank_them() -> None:
    kept, dropped = all_on_device(3, 49, CPU)
    for found, expected in zip((kept, dropped), ranked_on_device(torch.zeros(3, 49), 49), strict=True):
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype
