"""The contenders of benchmarks.loader that others wrote, each set up as its documentation has it.

All read the same shards with the same number of workers (processes or threads), crop at random with torchvision's
distribution, mirror every other image and do nothing else; all resize bilinearly with antialiasing. They hand on whole
images in uint8, which their users normalise on the device. An endless stream comes from each. More are in ``peers/``.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torch
import webdataset as wds
from nvidia.dali import fn, pipeline_def, types
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from pipeline.shards.index import ShardIndex, open_index

Batches = Iterator[tuple[int, int]]  # images in a batch, and the bytes of all its tensors

SCALE, RATIO, FLIP = (0.08, 1.0), (3 / 4, 4 / 3), 0.5
TIMM_TRANSFORM: dict[str, Any] = {
    "scale": SCALE,
    "ratio": RATIO,
    "hflip": FLIP,
    "color_jitter": 0.0,
    "interpolation": "bilinear",
}
SHUFFLE_BUFFER = 512  # samples; those who shuffle in memory fill it before the clock starts
_ENDLESS = 10_000_000  # samples
_LONG_EPOCH = 100_000  # samples, for a loader that lists an epoch's batches beforehand


@dataclass(frozen=True)
class Setting:
    """What all contenders are given.

    Attributes:
        workers: threads of a loader in one process, or processes of one thread each.
        resized_shards: of the same images, shrunk at conversion; None where there are none.
        addressable_shards: of the same images as addressable JPEGs; None where there are none.
    """

    shards: Path
    image_size: int
    patch_size: int
    num_classes: int
    batch_size: int
    workers: int
    resized_shards: Path | None = None
    addressable_shards: Path | None = None

    @property
    def tars(self) -> list[str]:
        """The training split's shards."""
        return sorted(str(path) for path in self.shards.glob("train-*.tar"))


@contextmanager
def stopped_workers(loader: Any) -> Iterator[Any]:
    """An iterator of a PyTorch loader, or of timm's prefetcher around one, whose workers are ended on leaving."""
    batches = iter(loader)
    try:
        yield batches
    finally:
        for one in (batches, getattr(loader, "loader", loader)._iterator):  # the latter where workers are persistent
            shut_down = getattr(one, "_shutdown_workers", None)
            if shut_down is not None:
                shut_down()


def num_bytes(tensors: Any) -> int:
    """Of all tensors in nested tuples, lists and dictionaries."""
    if isinstance(tensors, dict):
        tensors = list(tensors.values())
    if isinstance(tensors, tuple | list):
        return sum(num_bytes(one) for one in tensors)
    return tensors.nbytes if isinstance(tensors, torch.Tensor) else 0


def timm_webdataset_loader(setting: Setting, device: torch.device, more: dict[str, Any] | None = None) -> Any:
    """timm's loader of WebDataset shards: PIL in worker processes; uint8 NCHW as its prefetcher takes them.

    Args:
        more: of ``create_loader``'s arguments.
    """
    last = len(setting.tars) - 1
    dataset = timm.data.create_dataset(
        "wds/shards",
        root=str(setting.shards),
        split=f"train-{{000000..{last:06d}}}.tar|{_ENDLESS}",
        is_training=True,
        batch_size=setting.batch_size,
        sample_shuffle_size=SHUFFLE_BUFFER,
        sample_initial_size=SHUFFLE_BUFFER,
    )
    return timm.data.create_loader(
        dataset,
        input_size=(3, setting.image_size, setting.image_size),
        batch_size=setting.batch_size,
        is_training=True,
        **TIMM_TRANSFORM,
        num_workers=setting.workers,
        device=device,
        pin_memory=device.type == "cuda",
        **(more or {}),
    )


@contextmanager
def timm_webdataset(setting: Setting) -> Iterator[Batches]:
    # Without the prefetcher around it, whose normalising belongs to the device.
    with stopped_workers(timm_webdataset_loader(setting, torch.device("cpu")).loader) as batches:
        yield ((len(labels), num_bytes((images, labels))) for images, labels in batches)


class ShardImages(Dataset):
    """The images of an index as PIL images, over and over, for timm's NaFlex loader, which reads no tars."""

    def __init__(self, index: ShardIndex) -> None:
        self._index, self.transform = index, None

    def __len__(self) -> int:
        return _LONG_EPOCH

    def __getitem__(self, number: int) -> tuple[Any, int]:
        index, number = self._index, number % self._index.num_samples
        with open(index.folder / index.shards[index.shard[number]].name, "rb") as tar:
            encoded = os.pread(tar.fileno(), int(index.length[number]), int(index.offset[number]))
        image: Any = Image.open(io.BytesIO(encoded)).convert("RGB")
        if self.transform is not None:
            image = self.transform(image)
        return image, int(index.label[number])


@contextmanager
def timm_naflex(setting: Setting) -> Iterator[Batches]:
    """timm's NaFlex loader at as many patches as the whole image has: patches with coordinates and a mask."""
    loader = timm.data.create_naflex_loader(
        ShardImages(open_index(setting.shards, "train")),
        patch_size=setting.patch_size,
        train_seq_lens=((setting.image_size // setting.patch_size) ** 2,),
        batch_size=setting.batch_size,
        is_training=True,
        train_crop_mode="rrc",
        **TIMM_TRANSFORM,
        num_workers=setting.workers,
        device=torch.device("cpu"),
        pin_memory=False,
    ).loader
    with stopped_workers(loader) as batches:
        yield ((len(labels), num_bytes((inputs, labels))) for inputs, labels in batches)


def _decoded(transform: Any, sample: tuple[bytes, bytes]) -> tuple[torch.Tensor, int]:
    encoded, label = sample
    image = decode_image(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return transform(image), int(label)


def crop_and_flip(size: int) -> list[v2.Transform]:
    return [v2.RandomResizedCrop(size, scale=SCALE, ratio=RATIO, antialias=True), v2.RandomHorizontalFlip(FLIP)]


@contextmanager
def torchvision_batches(
    setting: Setting, transform: v2.Transform, mix: Callable[[Any], Any] | None = None
) -> Iterator[Batches]:
    """The webdataset library with torchvision's decoder and its transforms of uint8 tensors, in worker processes.

    Args:
        transform: of one image.
        mix: of a batch of images and their labels.
    """
    dataset = (
        wds.WebDataset(setting.tars, shardshuffle=len(setting.tars), seed=0)
        .repeat()
        .shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER)
        .to_tuple("jpg;png", "cls")
        .map(partial(_decoded, transform))
        .batched(setting.batch_size, partial=False)
    )
    if mix is not None:
        dataset = dataset.map(mix)
    with stopped_workers(DataLoader(dataset, batch_size=None, num_workers=setting.workers)) as batches:
        yield ((len(labels), num_bytes((images, torch.as_tensor(labels)))) for images, labels in batches)


def webdataset_torchvision(setting: Setting) -> AbstractContextManager[Batches]:
    return torchvision_batches(setting, v2.Compose(crop_and_flip(setting.image_size)))


@contextmanager
def dali_reader(setting: Setting) -> Iterator[Batches]:
    """DALI's own reader and its own random crop, whole images."""
    extension = open_index(setting.shards, "train").extension(0)

    @pipeline_def(batch_size=setting.batch_size, num_threads=setting.workers, device_id=None)
    def graph() -> Any:
        encoded, label = fn.readers.webdataset(  # type: ignore[misc]
            paths=setting.tars,
            index_paths=[str(Path(tar).with_suffix(".idx")) for tar in setting.tars],
            ext=[extension, "cls"],
            random_shuffle=True,
            initial_fill=SHUFFLE_BUFFER,
            name="reader",
        )
        images = fn.decoders.image_random_crop(
            encoded, output_type=types.RGB, random_area=SCALE, random_aspect_ratio=RATIO, adjust_orientation=False
        )
        images = fn.resize(images, size=[setting.image_size] * 2, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip(probability=FLIP)), label

    pipeline = graph()
    pipeline.build()

    def endless() -> Batches:
        label_bytes = 8
        while True:
            images, _ = pipeline.run()
            tensor = torch.from_numpy(np.array(images.as_tensor()))
            yield setting.batch_size, tensor.nbytes + setting.batch_size * label_bytes

    yield endless()
