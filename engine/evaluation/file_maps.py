"""Scores of patches by score maps that are made on the spot, for image files that lie in no shard."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from pipeline.graph.score_maps import whole_scores
from pipeline.jpeg.addressable import units_of
from pipeline.selection.image_maps import bytes_map, contrast_map
from pipeline.selection.maps import GRID_SIZE


def _contrast_of_file(encoded: bytes, grid_size: int) -> np.ndarray:
    return contrast_map(np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")), grid_size)


# The kinds of ``tools.shards score`` that need no model, by name: (image file, grid size) to a map uint8 [G, G].
FILE_MAPS: dict[str, Callable[[bytes, int], np.ndarray]] = {
    "bytes": lambda encoded, grid_size: bytes_map(units_of(encoded), grid_size),
    "contrast": _contrast_of_file,
}


def file_scores(files: Sequence[bytes], kind: str, grid_size: int, map_size: int = GRID_SIZE) -> np.ndarray:
    """The patches' scores of whole images by their files: float32 [B, N], for ``Classifier.logits(map_scores=...)``.

    Args:
        kind: one of ``FILE_MAPS``.
        grid_size: patches along one side of the image.
        map_size: cells along one side of the map that they are scored by.

    Raises:
        ValueError: another kind, or a file that no such map can be made of.
        OSError: Pillow cannot read a file.
    """
    if kind not in FILE_MAPS:
        raise ValueError(f"score maps of files are of the kinds {' and '.join(FILE_MAPS)}; got {kind!r}")
    return whole_scores(np.stack([FILE_MAPS[kind](file, map_size) for file in files]), grid_size)
