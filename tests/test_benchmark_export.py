"""What leaves a run works elsewhere as it worked here: timm's own transform and model give what validation gave."""

import io
import json
from pathlib import Path

import pytest
import torch
from finished_run import export_of_random_weights
from PIL import Image

from benchmarks.export.__main__ import main
from benchmarks.export.compared import agreement
from benchmarks.shared.photographs import photograph
from benchmarks.shared.shard_files import write_tar
from benchmarks.shared.toy_data import write_toy_config
from engine.config import load_config
from engine.evaluation.inference import Classifier
from engine.evaluation.trained import load_trained, validation_images
from pipeline.shards.index import build_index

# Width and height: larger and smaller than the model's 32 pixels, upright and across, and far from square.
SIZES = [(120, 90), (75, 101), (32, 32), (20, 26), (33, 31), (16, 200), (300, 40), (41, 33)]
CROP_FRACTIONS = [1.0, 0.875, 0.9, 0.5]
NUM_CLASSES = 4


def encoded(number: int) -> tuple[str, bytes]:
    """Ending and content of a picture: PNG or JPEG, one in five of them grey."""
    width, height = SIZES[number % len(SIZES)]
    image, sink = Image.fromarray(photograph(number, width, height)), io.BytesIO()
    ending = "png" if number % 2 else "jpg"
    (image.convert("L") if number % 5 == 0 else image).save(sink, "PNG" if ending == "png" else "JPEG", quality=90)
    return ending, sink.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    for split, count in (("train", 8), ("val", 40)):
        members = []
        for number in range(count):
            ending, content = encoded(number)
            members += [(f"{number:05d}.{ending}", content), (f"{number:05d}.cls", str(number % NUM_CLASSES).encode())]
        build_index(folder, split, [write_tar(folder / f"{split}-000000.tar", members)])
    return folder


def finished_run(folder: Path, shards: Path, crop_fraction: float) -> Path:
    """A run over the pictures with the accuracy that its own model has on its own validation images."""
    settings = [f"data.val_crop_fraction={crop_fraction}", "data.image_size=32", "data.patch_size=8"]
    config = load_config(write_toy_config(folder / "toy.yaml", shards), settings)
    run = export_of_random_weights(folder / "run", config)
    classifier, images = Classifier.load(run), torch.from_numpy(validation_images(load_trained(run).config, 40))
    labels = torch.arange(40) % NUM_CLASSES
    top1 = (classifier.logits(images).argmax(1) == labels).double().mean().item()
    (run / "summary.json").write_text(json.dumps({"top1": {"1.0": top1}}))
    return run


@pytest.mark.parametrize("crop_fraction", CROP_FRACTIONS)
def test_timm_sees_what_validation_saw(crop_fraction: float, shards: Path, tmp_path: Path) -> None:
    found = agreement(finished_run(tmp_path, shards, crop_fraction))
    assert (found.preprocessing["interpolation"], found.preprocessing["crop_pct"]) == ("bilinear", crop_fraction)
    # Where the crop reaches an image's edge, the loader repeats the pixels there, and Pillow leaves them out.
    assert found.pixel_difference["max"] < (8 if crop_fraction == 1 else 1.01)
    assert found.pixel_difference["mean"] < 0.3
    assert found.logit_difference["max"] < 0.05
    assert found.top1_of_timm == pytest.approx(found.top1_of_the_run, abs=1 / 40)


def test_other_preprocessing_is_told_apart(shards: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path, shards, 0.5)
    description = json.loads((run / "model" / "config.json").read_text())
    description["pretrained_cfg"] |= {"interpolation": "bicubic", "crop_pct": 0.9}  # what timm's names of models say
    (run / "model" / "config.json").write_text(json.dumps(description))
    assert agreement(run).pixel_difference["mean"] > 5


def test_the_command_prints_and_writes_both_accuracies(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path, shards, 0.875)
    main([str(run), "--out", str(tmp_path / "export.json")])
    [found] = json.loads((tmp_path / "export.json").read_text())["runs"]
    assert (found["run"], found["num_images"], found["compared_images"]) == ("run", 40, 40)
    assert f"top-1 {found['top1_of_the_run']:.2%} by the run, {found['top1_of_timm']:.2%} by plain timm" in (
        capsys.readouterr().out
    )


def test_a_run_that_was_not_validated_at_full_patches_is_refused(shards: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path, shards, 1.0)
    (run / "summary.json").write_text(json.dumps({"top1": {"0.5": 0.1}}))
    with pytest.raises(ValueError, match=r"not validated at full patches.*eval\.keep_rates"):
        agreement(run)
