"""The contenders of benchmarks.loader that bring their own reading or augmentation, and how they are compared."""

import json
import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import python
from PIL import Image
from torchvision.transforms import v2

from benchmarks import contenders, loader
from benchmarks.loader_peers import RATIO, SCALE, Setting
from benchmarks.measuring import spread
from benchmarks.peers import handwritten, recipes, spdl_ffmpeg
from benchmarks.peers.samples import SampleFiles, random_window, shuffled_batches
from benchmarks.photographs import photographs
from benchmarks.shared.photographs import jpeg_bytes, photograph
from pipeline.shards.index import open_index
from pipeline.shards.reader import SampleReader
from tools.shards.convert import Settings, convert
from tools.shards.sources.source import Source

needs_opencv = pytest.mark.skipif(handwritten.missing() is not None, reason=str(handwritten.missing()))
needs_spdl = pytest.mark.skipif(spdl_ffmpeg.missing() is not None, reason=str(spdl_ffmpeg.missing()))
PIXEL_BYTES, LABEL_BYTES = 32 * 32 * 3, 8
MIXED_LABEL_BYTES = 10 * 4  # a share for each of ten classes


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs") / "shards"
    convert(photographs(16, 4), "photographs:16", folder, Settings(shard_samples=8))
    return folder


@pytest.fixture
def setting(shards: Path) -> Setting:
    return Setting(shards, 32, 8, 10, 4, 2)


def test_samples_are_read_from_their_places_in_the_tars(shards: Path) -> None:
    index = open_index(shards, "train")
    with SampleFiles(index) as files, SampleReader(index) as reader:
        expected = [one.tobytes() for one in reader.read(np.arange(index.num_samples))]
        assert [files.read(sample) for sample in range(index.num_samples)] == expected


def test_every_epoch_has_each_sample_once_in_another_order() -> None:
    batches = list(islice(shuffled_batches(10, 4), 5))
    assert [len(batch) for batch in batches] == [4] * 5
    samples = [sample for batch in batches for sample in batch]
    assert sorted(samples[:10]) == sorted(samples[10:]) == list(range(10))
    assert samples[:10] != samples[10:]


@pytest.mark.parametrize("size", [(500, 375), (40, 400)])
def test_crops_are_drawn_as_torchvision_draws_them(size: tuple[int, int]) -> None:
    width, height = size
    rng = random.Random(0)
    ours = np.array([random_window(width, height, rng) for _ in range(4000)])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(8, scale=SCALE, ratio=RATIO), torch.zeros(3, height, width, dtype=torch.uint8)
    drawn = [crop.make_params([image]) for _ in range(4000)]
    theirs = np.array([[one["left"], one["top"], one["width"], one["height"]] for one in drawn])
    for quantile in (0.1, 0.5, 0.9):
        difference = np.quantile(ours, quantile, axis=0) - np.quantile(theirs, quantile, axis=0)
        assert (np.abs(difference) <= 0.05 * np.array([width, height, width, height]) + 1).all()


@needs_opencv
def test_the_hand_written_loader_decodes_resizes_and_mirrors_as_pillow_does() -> None:
    pixels = handwritten.decode(jpeg_bytes(3))
    assert pixels.shape == (375, 500, 3)
    box = (50, 25, 400, 300)
    shrunk = Image.fromarray(pixels).crop((50, 25, 450, 325)).resize((100, 100), Image.Resampling.BOX)
    for mirrored in (False, True):
        image = np.empty((100, 100, 3), np.uint8)
        handwritten.resize_into(image, pixels, box, antialias=True, mirrored=mirrored)
        expected = np.asarray(shrunk)[:, ::-1] if mirrored else np.asarray(shrunk)
        assert np.abs(image.astype(int) - expected).max() <= 1
    aliased = np.empty((100, 100, 3), np.uint8)
    handwritten.resize_into(aliased, pixels, box, antialias=False, mirrored=False)
    assert np.abs(aliased.astype(int) - np.asarray(shrunk)).mean() > 1


@needs_opencv
def test_the_hand_written_loader_reads_pngs_too(tmp_path: Path) -> None:
    Image.fromarray(photograph(5, 60, 40)).save(tmp_path / "image.png")
    assert np.array_equal(handwritten.decode((tmp_path / "image.png").read_bytes()), photograph(5, 60, 40))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("hand-written, OpenCV linear", marks=needs_opencv),
        pytest.param("hand-written, OpenCV area", marks=needs_opencv),
        pytest.param("SPDL", marks=needs_spdl),
    ],
)
def test_loaders_of_threads_hand_on_whole_images(name: str, setting: Setting) -> None:
    _, opener = contenders.contenders(setting)[name]
    measured = loader.measure(opener, setting, seconds=0.01)
    assert measured["bytes_per_image"] == PIXEL_BYTES + LABEL_BYTES


MEASURE = """
import json, sys
from pathlib import Path
from benchmarks import loader, loader_peers
from benchmarks.contenders import contenders
loader_peers.SHUFFLE_BUFFER = 8
setting = loader_peers.Setting(Path(sys.argv[2]), 32, 8, 10, 4, 1)
print(json.dumps(loader.measure(contenders(setting)[sys.argv[1]][1], setting, seconds=0.5)))
"""


@pytest.mark.parametrize(
    ("name", "label_bytes"),
    [
        ("timm, WebDataset, recipe", MIXED_LABEL_BYTES),
        ("timm, WebDataset, recipe without mixup", LABEL_BYTES),
        ("webdataset and torchvision v2, recipe", MIXED_LABEL_BYTES),
    ],
)
def test_recipes_of_others_hand_on_uint8_images_and_mixed_labels(name: str, label_bytes: int, shards: Path) -> None:
    """Alone in a process: they fork, which is not safe beside the threads that other tests leave behind."""
    done = python("-c", MEASURE, name, shards, timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["bytes_per_image"] == PIXEL_BYTES + label_bytes


def test_torchvisions_mixup_of_uint8_images_rounds_what_it_gives_for_floats() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    mixed, labels = recipes.MixUp(alpha=0.8, num_classes=10)(images, torch.arange(4))
    weight = labels[0, 0]  # of the first image in the first of the mixed ones
    expected = weight * images[0] + (1 - weight) * images[3]
    assert mixed.dtype == torch.uint8
    assert torch.allclose(mixed[0].float(), expected, atol=0.51)


def test_timms_posterize_keeps_at_least_one_bit() -> None:
    image = Image.fromarray(photograph(0, 20, 20))
    assert recipes.auto_augment.NAME_TO_OP["PosterizeIncreasing"] is recipes.posterize
    kept = np.asarray(recipes.posterize(image, 0))
    assert set(np.unique(kept)) <= {0, 128}
    assert kept.any()


def test_our_recipe_is_that_of_the_configuration_with_each_image_once() -> None:
    augment = recipes.recipe_of_ours()
    assert augment["repeats"] == 1
    assert augment["auto"]["magnitude"] == 9
    assert (augment["mixup"], augment["cutmix"], augment["erase_probability"]) == (
        recipes.MIXUP_ALPHA,
        recipes.CUTMIX_ALPHA,
        recipes.ERASE_PROBABILITY,
    )


def test_what_cannot_run_here_is_left_out_and_says_what_it_needs(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handwritten, "find_spec", lambda name: None)
    monkeypatch.setattr(spdl_ffmpeg, "find_spec", lambda name: None)
    left_out = contenders.unable()
    assert set(left_out) == {"hand-written, OpenCV linear", "hand-written, OpenCV area", "SPDL"}
    assert all(".[bench]" in why for why in left_out.values())
    assert list(contenders.Choice(("hand-written", "DALI"), without=frozenset(left_out)).of(setting)) == [
        "DALI's own reader"
    ]


def test_contenders_are_chosen_by_parts_of_their_names(setting: Setting) -> None:
    assert list(contenders.Choice(("random, keep 0.2", "NaFlex")).of(setting)) == [
        "ours, random, keep 0.2",
        "timm, NaFlex",
    ]
    assert list(contenders.Choice().of(setting)) == list(contenders.contenders(setting))


def test_the_faster_of_two_is_what_we_are_compared_with() -> None:
    lines = [
        {"contender": "ours, random, recipe, keep 0.2", "images_per_s": spread([12.0, 12.0, 12.0])},
        {"contender": "timm, WebDataset, recipe", "images_per_s": spread([6.0, 3.0, 3.0])},
        {"contender": "timm, WebDataset, recipe without mixup", "images_per_s": spread([4.0, 4.0, 4.0])},
    ]
    [found] = loader.ratios(lines)
    assert (found["over"], found["which_is"]) == ("timm, recipe", "timm, WebDataset, recipe without mixup")
    assert found["ratio"]["values"] == [3.0, 3.0, 3.0]
    assert found["target"] == contenders.TARGETS["ours, random, recipe, keep 0.2", "timm, recipe"]
    assert "over timm, WebDataset, recipe without mixup: 3.00 (3.00 to 3.00)" in loader.describe_ratios([found])


def test_other_shards_than_drawn_ones_are_taken_as_they_are(tmp_path: Path) -> None:
    drawn = photographs(6, 2)
    source = Source([*drawn.classes, "eleventh"], drawn.splits)
    convert(source, "real-photographs:6", tmp_path / "shards", Settings())
    found = loader.settings(4, 1, tmp_path / "shards", 2000, ["photographs"])
    assert found["photographs"].num_classes == 11
    assert loader.with_resized_shards(found["photographs"], 2000).resized_shards is None
    assert loader.facts_of(found["photographs"])["photographs"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_an_unknown_data_set_is_an_error(shards: Path) -> None:
    with pytest.raises(ValueError, match="data set 'imagenet'; allowed are photographs, fashion_mnist"):
        loader.settings(4, 1, shards, 16, ["imagenet"])
