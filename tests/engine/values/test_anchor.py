"""What ``train.anchor`` may say, and beside which other keys."""

from pathlib import Path

import pytest

from benchmarks.shared.shell import ROOT
from engine.config import load_config
from engine.values.anchor import check_fisher_file
from pipeline.yaml_file import ConfigError

CLASSIFIER = ROOT / "configs" / "fashion_mnist_finetune.yaml"
PRETRAINING = ROOT / "configs" / "fashion_mnist_pretrain.yaml"
ANCHOR = "train.anchor={strength: 0.01}"


def test_weights_are_free_unless_an_anchor_is_named() -> None:
    assert load_config(CLASSIFIER).train.anchor is None
    anchor = load_config(CLASSIFIER, ["train.anchor={strength: 0.01, fisher: ~/old.safetensors}"]).train.anchor
    assert anchor is not None
    assert (anchor.strength, anchor.fisher) == (0.01, Path.home() / "old.safetensors")


@pytest.mark.parametrize(
    ("config", "overrides", "told"),
    [
        (CLASSIFIER, ["model.pretrained=null"], "model.pretrained is null; set model.pretrained, such as local-dir:"),
        (CLASSIFIER, ["engine.zero_stage=3"], "train.anchor needs whole weights on every rank"),
        (CLASSIFIER, ["train.anchor.strength=0"], "train.anchor.strength: Input should be greater than 0, got 0"),
        (PRETRAINING, ["model.pretrained=mae.pth"], "train.anchor belongs to a classifier"),
    ],
)
def test_an_anchor_that_holds_nothing_is_refused(config: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(config, [ANCHOR, *overrides])


def test_a_missing_file_of_fisher_information_is_told_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"old\.safetensors is not there; python -m tools\.fisher RUN --out"):
        check_fisher_file(tmp_path / "old.safetensors")
