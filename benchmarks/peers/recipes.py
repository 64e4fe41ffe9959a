"""Others' loaders with the augmentation of DeiT's recipe (arXiv 2012.12877), which the project's ImageNet recipes have.

RandAugment of two operations of magnitude 9, mixup (0.8) or cutmix (1.0), and random erasing of every fourth image.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import auto_augment
from timm.data.mixup import FastCollateMixup
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2

from benchmarks.loader_peers import (
    Batches,
    Setting,
    crop_and_flip,
    num_bytes,
    stopped_workers,
    timm_webdataset_loader,
    torchvision_batches,
)
from pipeline.yaml_file import read_yaml

RECIPE = Path(__file__).parents[2] / "configs/imagenet_deit_s16_224_cyclic.yaml"
MIXUP_ALPHA, CUTMIX_ALPHA, ERASE_PROBABILITY = 0.8, 1.0, 0.25
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


def recipe_of_ours() -> dict[str, Any]:
    """``data.augment`` of the project's recipe; each image once, for others' loaders repeat none."""
    augment = read_yaml(RECIPE, "configuration")["data"]["augment"]
    return augment | {"repeats": 1}


def posterize(image: Any, bits_to_keep: int, **_: Any) -> Any:
    """timm's operation. It asks for 0 bits now and then, which Pillow 13 refuses; earlier ones made the image black."""
    return auto_augment.posterize(image, max(1, bits_to_keep))


# In the table that timm's operations are looked up in.
auto_augment.NAME_TO_OP |= dict.fromkeys(("Posterize", "PosterizeIncreasing", "PosterizeOriginal"), posterize)


@dataclass(frozen=True)
class TimmRecipe:
    """timm's loader of WebDataset shards. mixes: while it collates."""

    mixes: bool = True

    @contextmanager
    def open(self, setting: Setting) -> Iterator[Batches]:
        mixing = {
            "collate_fn": FastCollateMixup(
                mixup_alpha=MIXUP_ALPHA, cutmix_alpha=CUTMIX_ALPHA, label_smoothing=0.1, num_classes=setting.num_classes
            )
        }
        more = {"auto_augment": RAND_AUGMENT, **(mixing if self.mixes else {})}
        loader = timm_webdataset_loader(setting, torch.device("cpu"), more).loader
        # timm's prefetcher erases normalised images, on the device; normalising is no contender's, so boxes are black.
        erase = RandomErasing(ERASE_PROBABILITY, mode="const", device="cpu")
        with stopped_workers(loader) as batches:
            yield ((len(images), num_bytes((erase(images), labels))) for images, labels in batches)


def _mixed(mix: v2.Transform, batch: tuple[torch.Tensor, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return mix(batch[0], torch.as_tensor(batch[1]))


class MixUp(v2.MixUp):
    """torchvision's, of uint8 images: it mixes floating-point ones only."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if inpt.dtype != torch.uint8:
            return super().transform(inpt, params)
        return super().transform(inpt.float(), params).round_().to(torch.uint8)


@contextmanager
def torchvision_recipe(setting: Setting) -> Iterator[Batches]:
    """webdataset with torchvision's transforms; whole batches are mixed in the worker processes."""
    transform = v2.Compose(
        [
            *crop_and_flip(setting.image_size),
            v2.RandAugment(num_ops=2, magnitude=9),
            v2.RandomErasing(ERASE_PROBABILITY),
        ]
    )
    either = [
        one(alpha=alpha, num_classes=setting.num_classes)
        for one, alpha in ((MixUp, MIXUP_ALPHA), (v2.CutMix, CUTMIX_ALPHA))
    ]
    mix = partial(_mixed, v2.RandomChoice(either))
    with torchvision_batches(setting, transform, mix) as batches:
        yield batches
