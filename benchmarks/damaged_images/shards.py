"""The damaged files, as a source of a conversion and as shards that another program might have written."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.damaged_images.files import FILES
from benchmarks.damaged_images.kinds import KINDS
from benchmarks.shared.shard_files import write_tar

NUM_SOUND = 16  # behind the damaged ones, to stand in for them
_IN_A_SHARD = 250
_NUM_PICTURES = 5


@dataclass(frozen=True)
class DamagedFile:
    """A file and how it came to be. number: its label and its name."""

    number: int
    file: str
    kind: str
    data: bytes

    @property
    def format(self) -> str:
        """Its format, whatever the damage has made of it."""
        return self.file.split()[0].rstrip(",")

    @property
    def extension(self) -> str:
        return {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "BMP": "bmp"}[self.format]

    @property
    def name(self) -> str:
        return f"{self.number:06d}"


def damaged_files(num_files: int, seed: int) -> list[DamagedFile]:
    """So many files, every kind of file and damage in turns, and sound ones behind them."""
    combinations = list(product(FILES, KINDS))
    found = []
    for number in range(num_files):
        turn, place = divmod(number, len(combinations))
        file, kind = combinations[place]
        sound = FILES[file](turn % _NUM_PICTURES)
        found.append(DamagedFile(number, file, kind, KINDS[kind](sound, np.random.default_rng([seed, number]))))
    return [*found, *(DamagedFile(num_files + i, "JPEG", "none", FILES["JPEG"](i)) for i in range(NUM_SOUND))]


def write_source(folder: Path, files: list[DamagedFile]) -> str:
    """The files in a folder with a table of their labels; how a conversion is told of them."""
    folder.mkdir(parents=True)
    lines = ["path,label"]
    for one in files:
        (folder / f"{one.name}.{one.extension}").write_bytes(one.data)
        lines.append(f"{one.name}.{one.extension},{one.number}")
    (folder / "files.csv").write_text("\n".join(lines) + "\n")
    return f"csv:{folder / 'files.csv'}"


def write_shards(folder: Path, files: list[DamagedFile]) -> None:
    """The files in tars, not indexed."""
    for first in range(0, len(files), _IN_A_SHARD):
        members = []
        for one in files[first : first + _IN_A_SHARD]:
            members += [(f"{one.name}.{one.extension}", one.data), (f"{one.name}.cls", str(one.number).encode())]
        write_tar(folder / f"train-{first // _IN_A_SHARD:06d}.tar", members)
