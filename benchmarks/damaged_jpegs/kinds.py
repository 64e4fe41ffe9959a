"""All kinds of damage, and shards of them: one shard a kind, and one of sound images for substitutes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.damaged_jpegs import data_damage as data
from benchmarks.damaged_jpegs import header_damage as header
from benchmarks.damaged_jpegs import units_damage as beside
from benchmarks.shared.shard_files import write_tar
from pipeline.jpeg.addressable import Units, units_of
from pipeline.shards.index import ShardIndex, build_index, open_index
from pipeline.shards.units import units_path, write_units

Damage = Callable[[bytes, Units, np.random.Generator], bytes]
UnitsDamage = Callable[[Units, np.random.Generator], Units]
NUM_SUBSTITUTES = 16


@dataclass(frozen=True)
class Kind:
    """What is done to an image, and what its file of units says afterwards.

    Attributes:
        images: each is damaged by a random one of these; none: it stays sound.
        units: what is done to its row in the file of units.
        file: that file is there, is of another shard, or is not there.
    """

    images: tuple[Damage, ...] = ()
    units: UnitsDamage | None = None
    file: str = "there"


_IN_DATA: dict[str, Damage] = {
    "a bit of the data": data.flip_bits,
    "up to 40 bits of the data": data.flip_many_bits,
    "up to 200 bytes of the data overwritten": data.overwrite,
    "sectors of the data come back as zeros": data.lose_sectors,
    "a marker inside a unit": data.marker_inside,
    "a marker renumbered": data.renumber_marker,
    "a marker that became data": data.hide_marker,
    "a marker removed": data.remove_marker,
    "a marker repeated": data.repeat_marker,
    "a unit removed": data.remove_unit,
    "eight units removed": data.remove_eight_units,
    "a unit repeated": data.repeat_unit,
    "a byte lost or gained": data.shift_a_byte,
    "cut off, zeros behind": data.cut_zeros,
    "cut off, garbage behind": data.cut_garbage,
    "cut off, an end and zeros behind": data.cut_end_marker,
}
_IN_HEADER: dict[str, Damage] = {
    "a bit of the header": header.flip_a_bit,
    "up to 40 bytes of the header overwritten": header.overwrite_some,
    "another restart interval": header.restart_interval,
    "a Huffman table without an end of block": header.no_end_of_block,
    "a byte of a Huffman table": header.huffman_table,
    "a byte of a quantization table": header.quantization_table,
    "another height or width": header.frame_size,
    "other sampling factors": header.sampling_factors,
    "another frame": header.frame,
    "another scan": header.scan,
    "a segment of another kind": header.kind_of_segment,
    "a segment of another length": header.length_of_segment,
    "a bit of the header and some of the data": header.header_and_data,
}
_BESIDE: dict[str, UnitsDamage] = {
    "units: a bit of a length": beside.one_length,
    "units: boundaries moved": beside.move_boundary,
    "units: two lengths swapped": beside.swap_lengths,
    "units: eight units skipped": beside.skip_eight_units,
    "units: random lengths": beside.random_lengths,
    "units: lengths overwritten": beside.overwrite_lengths,
    "units: another length of the header": beside.header_bytes,
    "units: fewer of them": beside.fewer_units,
}
KINDS: dict[str, Kind] = {
    **{name: Kind((damage,)) for name, damage in (_IN_DATA | _IN_HEADER).items()},
    **{name: Kind(units=damage) for name, damage in _BESIDE.items()},
    "damaged, and the units are wrong too": Kind(tuple(_IN_DATA.values()), beside.overwrite_lengths),
    "damaged, and the file of units is of another shard": Kind(tuple((_IN_DATA | _IN_HEADER).values()), file="stale"),
    "damaged, and there is no file of units": Kind(tuple((_IN_DATA | _IN_HEADER).values()), file="absent"),
}


@dataclass(frozen=True)
class DamagedShards:
    """Shards with a damaged copy of every image, in the order of ``kinds``; then the sound substitutes.

    Attributes:
        sound: the images before they were damaged, by sample id.
        kinds: of each sample but the substitutes, by sample id.
    """

    index: ShardIndex
    sound: list[bytes]
    kinds: list[str]


def write_damaged_shards(folder: Path, images: list[bytes], num_images: int, seed: int) -> DamagedShards:
    """Write addressable JPEGs as shards, and damage them there as failing storage does: without a trace in the index.

    Args:
        images: sound and addressable; they are used again and again.
        num_images: damaged ones, of all kinds in equal numbers as far as that goes.
    """
    kinds, sound = _laid_out(images, num_images)
    places = [[i for i, kind in enumerate(kinds) if kind == name] for name in dict.fromkeys(kinds)]
    places.append(list(range(num_images, len(sound))))
    tars = [_write_shard(folder / f"train-{n:06d}.tar", sound, ids) for n, ids in enumerate(places)]
    index = build_index(folder, "train", tars)
    for tar, ids in zip(tars, places, strict=True):
        _damage_shard(tar, index, sound, [(i, kinds[i] if i < num_images else "") for i in ids], seed)
    return DamagedShards(index, sound, kinds)


def open_damaged_shards(folder: Path, images: list[bytes], num_images: int) -> DamagedShards:
    """What ``write_damaged_shards`` has written with the same arguments."""
    kinds, sound = _laid_out(images, num_images)
    return DamagedShards(open_index(folder, "train"), sound, kinds)


def _laid_out(images: list[bytes], num_images: int) -> tuple[list[str], list[bytes]]:
    kinds = [name for i, name in enumerate(KINDS) for _ in range(i, num_images, len(KINDS))]
    return kinds, [images[i % len(images)] for i in range(num_images + NUM_SUBSTITUTES)]


def _write_shard(tar: Path, sound: list[bytes], ids: list[int]) -> Path:
    members = [part for i in ids for part in ((f"{i:06d}.jpg", sound[i]), (f"{i:06d}.cls", str(i).encode()))]
    return write_tar(tar, members)


def _damage_shard(tar: Path, index: ShardIndex, sound: list[bytes], rows: list[tuple[int, str]], seed: int) -> None:
    """Damage the images of a shard in place, and write its file of units."""
    before, told = tar.stat(), []
    with tar.open("r+b") as file:
        for sample_id, name in rows:
            kind, random = KINDS.get(name, Kind()), np.random.default_rng([seed, sample_id])
            units = units_of(sound[sample_id])
            damaged = damaged_image(sound[sample_id], kind, units, random)
            file.seek(int(index.offset[sample_id]))
            file.write(damaged)
            told.append(units if kind.units is None else kind.units(units, random))
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))
    [shard] = [shard for shard in index.shards if shard.name == tar.name]
    file_is = KINDS.get(rows[0][1], Kind()).file
    if file_is == "there":
        write_units(tar, shard.digest, told)
    elif file_is == "stale":
        write_units(tar, "of another shard", told)
    else:
        assert file_is == "absent"
        units_path(tar).unlink(missing_ok=True)


def damaged_image(sound: bytes, kind: Kind, units: Units, random: np.random.Generator) -> bytes:
    """A file of the same length, damaged by one of the kind's ways."""
    if not kind.images:
        return sound
    damaged = kind.images[int(random.integers(len(kind.images)))](sound, units, random)
    assert len(damaged) == len(sound)
    return damaged
