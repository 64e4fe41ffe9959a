"""Image files that lie in no shard, laid into one for a while, so that they go the way of validation's images."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from pipeline.config import DataConfig
from pipeline.graph.bad_samples import BadSampleError
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan.step import ValidationPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.patches import unpatchify
from pipeline.shards.index import BadShardsError, ShardIndex, build_index

MOST_AT_A_TIME = 64
_SPLIT = "val"


@contextmanager
def laid_into_shards(images: Sequence[bytes]) -> Iterator[ShardIndex]:
    """A set of these encoded images in their order, each labelled 0, for as long as the block runs.

    Raises:
        BadShardsError: an image whose header cannot be read; the key of a fault is the image's position.
        OSError: there is no room for temporary files.
    """
    with TemporaryDirectory(prefix="images-") as name:
        shard = Path(name) / f"{_SPLIT}-000000.tar"
        with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
            for position, encoded in enumerate(images):
                # What decodes an image goes by its bytes; an extension only says that it is one.
                for member, content in ((f"{position:08d}.jpg", encoded), (f"{position:08d}.cls", b"0")):
                    header = tarfile.TarInfo(member)
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
        yield build_index(name, _SPLIT, [shard])


def encoded_image(image: Image.Image | Path | str | bytes) -> bytes:
    """The bytes of an image file; of an image in memory, those of a PNG of its RGB values.

    Raises:
        OSError: a file cannot be read.
        TypeError: it is something else.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, Path | str):
        return Path(image).read_bytes()
    if isinstance(image, Image.Image):
        sink = io.BytesIO()
        image.convert("RGB").save(sink, "PNG", compress_level=1)
        return sink.getvalue()
    raise TypeError(f"an image is a PIL image, a path or the bytes of a file; got {type(image).__name__}")


def preprocessed(images: Sequence[Image.Image | Path | str | bytes], data: DataConfig, num_threads: int) -> np.ndarray:
    """Images as validation shows them to a model that looks at every patch: uint8 [B, S, S, 3].

    Raises:
        ValueError: no image, or one that the loader does not decode; names it.
        OSError, TypeError: as ``encoded_image``.
    """
    if not images:
        raise ValueError("images are at least one, got none")
    names = [str(image) if isinstance(image, Path | str) else f"image {i}" for i, image in enumerate(images)]
    rule = SelectionConfig(rule="grid")  # which one does not matter: every patch is kept
    data = data.model_copy(update={"device": "cpu", "on_bad_sample": "fail"})
    found: list[np.ndarray] = []
    try:
        with laid_into_shards([encoded_image(image) for image in images]) as index:
            planner = ValidationPlanner(index, data, rule, 1.0, min(len(images), MOST_AT_A_TIME), 0)
            plans = validation_plans(planner)
            with PatchLoader(planner, plans, batch_size=planner.micro_batch_size, num_threads=num_threads) as loader:
                found = [unpatchify(batch.patches.numpy(), data.patch_size) for batch in loader]
    except BadShardsError as error:
        key, reason = error.faults[0].key, error.faults[0].reason
    except BadSampleError as error:
        key, reason = error.rows[0].key, error.rows[0].cause
    if not found:
        raise ValueError(f"{names[int(key)]}: {reason}")
    return np.concatenate(found)[: len(images)]
