"""Fashion-MNIST: finds its four files, wherever this machine can get them, and reads them.

70,000 gray images of 28 x 28 pixels in 10 classes: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset
for Benchmarking Machine Learning Algorithms", arXiv 1708.07747.
"""

import gzip
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tools.shards.debian import reason_of, unpacked_package

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# split -> (images, labels, count). The 10,000 test images serve as the validation split.
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", 60_000),
    "val": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 10_000),
}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_IMAGES_MAGIC, _LABELS_MAGIC = 0x00000803, 0x00000801  # unsigned bytes in three dimensions, and in one


def find_fashion_mnist(folder: Path | None, cache: Path) -> Path:
    """The folder that holds the four files.

    A ``folder`` that is named must hold them. Otherwise, in this order: the files of the Debian package where it is
    installed; what an earlier call left in ``cache``; the package fetched by apt-get, for which nobody needs to be
    root; torchvision's download. Raises FileNotFoundError with what was tried and why each way failed.
    """
    if folder is not None:
        if missing := _missing(folder):
            raise FileNotFoundError(f"{folder}: not Fashion-MNIST, it lacks {', '.join(missing)}")
        return folder
    tried: list[str] = []
    for place in (DEBIAN_FOLDER, cache / "fashion-mnist", cache / "FashionMNIST" / "raw"):
        if not (missing := _missing(place)):
            return place
        tried.append(f"{place}: {'no such folder' if not place.is_dir() else 'lacks ' + ', '.join(missing)}")
    for name, fetch in (("apt-get download", _fetch_with_apt), ("torchvision", _fetch_with_torchvision)):
        try:
            return fetch(cache)
        except (OSError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
            tried.append(f"{name}: {reason_of(error)}")
    raise FileNotFoundError(
        "Fashion-MNIST was not found and could not be fetched. Tried: "
        + "; ".join(tried)
        + f". Put the four files ({', '.join(name for files in FILES.values() for name in files[:2])}) in a folder "
        "and name it: --source fashion-mnist:FOLDER"
    )


def read_fashion_mnist(folder: Path, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images uint8 [N, 28, 28] and labels uint8 [N] of ``train`` or ``val``. Raises ValueError on a damaged file."""
    images_name, labels_name, count = FILES[split]
    images = _read_idx(folder / images_name, _IMAGES_MAGIC, (count, 28, 28))
    labels = _read_idx(folder / labels_name, _LABELS_MAGIC, (count,))
    if labels.max() >= len(CLASSES):
        raise ValueError(f"{folder / labels_name}: holds label {labels.max()}; there are {len(CLASSES)} classes")
    return images, labels


def _read_idx(path: Path, magic: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    try:
        data = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); fetch it again") from error
    header = np.frombuffer(data[: 4 * (1 + len(shape))], dtype=">u4")
    if header.tolist() != [magic, *shape]:
        raise ValueError(f"{path}: begins with {header.tolist()}, but should with {[magic, *shape]}")
    values = np.frombuffer(data, dtype=np.uint8, offset=header.nbytes)
    if values.size != np.prod(shape):
        raise ValueError(f"{path}: holds {values.size} values, but its header says {np.prod(shape)}")
    return values.reshape(shape)


def _missing(folder: Path) -> list[str]:
    names = [name for files in FILES.values() for name in files[:2]]
    return [name for name in names if not (folder / name).is_file()]


def _fetch_with_apt(cache: Path) -> Path:
    with unpacked_package(DEBIAN_PACKAGE, cache) as package:
        unpacked = package / DEBIAN_FOLDER.relative_to("/")
        if missing := _missing(unpacked):
            raise FileNotFoundError(f"the package {DEBIAN_PACKAGE} lacks {', '.join(missing)}")
        target = cache / "fashion-mnist"
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)
    return target


def _fetch_with_torchvision(cache: Path) -> Path:
    from torchvision.datasets import FashionMNIST  # takes seconds to import, and is seldom needed

    FashionMNIST(str(cache), download=True)
    target = cache / "FashionMNIST" / "raw"
    if missing := _missing(target):
        raise FileNotFoundError(f"{target} lacks {', '.join(missing)} after the download")
    return target
