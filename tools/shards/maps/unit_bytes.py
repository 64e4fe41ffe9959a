"""Maps of the kind ``bytes``: what the units of each addressable JPEG take. No image is decoded."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.jpeg.addressable import NotAddressableError, Units, units_of, units_with
from pipeline.selection.image_maps import bytes_map
from pipeline.shards.units import ShardUnits, open_units
from tools.shards.maps.shard_images import ShardImages


def bytes_maps(images: ShardImages, rows: Sequence[int], grid_size: int) -> Iterator[np.ndarray]:
    """A map uint8 [G, G] for each row. With the shard's ``.units`` file just the images' headers are read.

    Raises:
        ValueError: some images are not addressable; says how many of the shard, and which is the first.
    """
    stored = open_units(images.index.folder, images.shard)
    for row in rows:
        try:
            units = _units(images, row, stored)
        except NotAddressableError as reason:
            raise ValueError(_refusal(images, rows, row, reason, stored)) from None
        yield bytes_map(units, grid_size)


def _units(images: ShardImages, row: int, stored: ShardUnits | None) -> Units:
    if stored is None or not stored.header_bytes[row]:  # the whole file knows why it is not addressable
        return units_of(images.read(row))
    lengths = stored.lengths[stored.starts[row] : stored.starts[row + 1]]
    return units_with(images.read(row, int(stored.header_bytes[row])), lengths)


def _refusal(images: ShardImages, rows: Sequence[int], first: int, reason: Exception, stored: ShardUnits | None) -> str:
    count = sum(not _is_addressable(images, row, stored) for row in rows if row >= first)
    folder = images.index.folder
    return (
        f"{count} of the {len(rows)} images in {folder / images.shard.name} are not addressable, the first of them "
        f"{images.describe(first)}: {reason}. Maps of the kind bytes are of addressable JPEGs; make such shards with: "
        f"python -m tools.shards readdress {folder} --out {folder}-addressable, or score these --by contrast"
    )


def _is_addressable(images: ShardImages, row: int, stored: ShardUnits | None) -> bool:
    try:
        _units(images, row, stored)
    except NotAddressableError:
        return False
    return True
