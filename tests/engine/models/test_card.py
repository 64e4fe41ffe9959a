"""The card beside an export says what is in the export, and nothing else."""

from typing import Any

import pytest

from engine.models.card import model_card
from pipeline.config import DataConfig

NAMES = ["cat", "dog", "hen"]


def data(**changes: Any) -> DataConfig:
    settings: dict[str, Any] = {"num_classes": 3, "image_size": 96, "val_crop_fraction": 0.875} | changes
    return DataConfig(train="shards", val="shards", **settings)


def card(names: list[str] | None = None, measure: str = "top1", **changes: Any) -> str:
    return model_card("vit_tiny_patch16_224", data(**changes), names, measure, {"1.0": 0.861234, "0.4": 0.7})


def test_it_says_how_images_are_prepared() -> None:
    text = card(NAMES)
    assert "# vit_tiny_patch16_224, 96 pixels in patches of 16" in text
    assert "resized to 109 pixels (bilinear, antialiased, smaller images enlarged), then the middle 96 x 96" in text
    assert "less the mean [0.485, 0.456, 0.406], over the standard deviation [0.229, 0.224, 0.225]" in text


def test_it_names_the_classes_and_what_was_measured_at_which_rates() -> None:
    text = card(NAMES)
    assert "3, in this order: `cat`, `dog`, `hen`." in text
    assert "| keep rate | top-1 |\n|---|---|\n| 1.0 | 86.12% |\n| 0.4 | 70.00% |" in text
    assert "On images of 96 x 96 pixels in patches of 16, whatever sizes it was trained on:" in text
    assert 'timm.create_model("local-dir:FOLDER", pretrained=True)' in text
    assert 'Classifier.load("FOLDER"' in text


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (None, "1000, without names."),
        ([f"n{i}" for i in range(1000)], "1000, from `n0` to `n999`; all of them: `label_names` in `config.json`."),
    ],
)
def test_many_classes_are_not_listed(names: list[str] | None, said: str) -> None:
    assert said in card(names, num_classes=1000)


def test_an_encoder_is_no_classifier() -> None:
    text = card(NAMES, "reconstruction_loss")
    assert "The classifier is untrained: this is an encoder." in text
    assert "| 1.0 | 0.8612 |" in text
    assert "pipeline_tag: image-feature-extraction" in text
    assert "Classifier" not in text
