"""Scores where the images are, in torch. A CPU is such a place too."""

import numpy as np
import pytest
import reference
import torch

from benchmarks.shared.photographs import photograph
from pipeline.graph.on_device import contrast_on_device, open_device_scores
from pipeline.selection.config import SelectionConfig, open_scores
from pipeline.selection.rules import RULES

CPU = torch.device("cpu")


def contrast(image: np.ndarray, patch_size: int) -> np.ndarray:
    """float32 [N]."""
    return contrast_on_device(torch.from_numpy(image)[None], len(image) // patch_size)[0].numpy()


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


def test_every_pixel_rule_scores_on_a_device_as_in_memory() -> None:
    images = np.stack([photograph(seed, 32, 32) for seed in range(3)])
    for name in [name for name, rule in RULES.items() if rule.looks_at == "pixels"]:
        selection = SelectionConfig(rule=name)
        score, on_device = open_scores(selection, 4), open_device_scores(selection, 4, CPU)
        assert score is not None
        assert on_device is not None
        np.testing.assert_array_equal(on_device(torch.from_numpy(images)).numpy(), score(list(images)))


def test_a_rule_without_torch_of_its_own_scores_copies_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.graph.on_device._IN_TORCH", {})
    test_every_pixel_rule_scores_on_a_device_as_in_memory()


def test_a_planned_rule_scores_nothing_on_a_device() -> None:
    assert open_device_scores(SelectionConfig(rule="random"), 4, CPU) is None
