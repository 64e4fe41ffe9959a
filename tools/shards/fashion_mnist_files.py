"""Fashion-MNIST: finds its four files, wherever this machine can get them, and reads them.

70,000 gray images of 28 x 28 pixels in 10 classes: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset
for Benchmarking Machine Learning Algorithms", arXiv 1708.07747.
"""

import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
_COMMAND_TIMEOUT_S = 300


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
            tried.append(f"{name}: {_last_line(error)}")
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
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise FileNotFoundError("this machine has no apt-get and dpkg-deb")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".apt-") as temporary:
        work = Path(temporary).resolve()
        options = ["-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20"]
        try:
            _run(["apt-get", *options, "download", DEBIAN_PACKAGE], work)
        except subprocess.CalledProcessError:
            # Fresh containers have no package lists, and the system's own are root's: keep private ones.
            for name in ("lists/partial", "cache/archives/partial"):
                (work / name).mkdir(parents=True)
            options += ["-o", f"Dir::State::lists={work / 'lists'}", "-o", f"Dir::Cache={work / 'cache'}"]
            _run(["apt-get", *options, "update"], work)
            _run(["apt-get", *options, "download", DEBIAN_PACKAGE], work)
        (package,) = work.glob("*.deb")
        _run(["dpkg-deb", "-x", str(package), str(work / "unpacked")], work)
        unpacked = work / "unpacked" / DEBIAN_FOLDER.relative_to("/")
        if missing := _missing(unpacked):
            raise FileNotFoundError(f"the package {package.name} lacks {', '.join(missing)}")
        target = cache / "fashion-mnist"
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)
    return target


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
    )


def _fetch_with_torchvision(cache: Path) -> Path:
    from torchvision.datasets import FashionMNIST  # takes seconds to import, and is seldom needed

    FashionMNIST(str(cache), download=True)
    target = cache / "FashionMNIST" / "raw"
    if missing := _missing(target):
        raise FileNotFoundError(f"{target} lacks {', '.join(missing)} after the download")
    return target


def _last_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in (error.stderr or "").splitlines() if line.startswith("E:")]
        return lines[-1] if lines else f"{' '.join(error.cmd[:1])} ended with code {error.returncode}"
    return (str(error) or type(error).__name__).splitlines()[-1]
