"""One shard of a conversion, with its ``.units`` file where JPEGs are addressable."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.shards.classes import most_classes
from pipeline.shards.tars import scan_shard
from pipeline.shards.units import write_units
from tools.shards.conversion.plan import Divided, Settings, Span
from tools.shards.files import ShardWriter
from tools.shards.journal import Rejected, ShardRecord
from tools.shards.sources.source import Source
from tools.shards.tally import Tally
from tools.shards.workers import Prepared, PreparedImage, prepare_in_order


@dataclass(frozen=True)
class Maker:
    """Makes shards of a conversion, here or on another host that sees the same files.

    Attributes:
        out: the folder of the shards.
        num_classes: or how many there may be, where nothing names them.
    """

    out: Path
    divided: Divided
    settings: Settings
    num_classes: int

    @staticmethod
    def of(source: Source, divided: Divided, out: Path, settings: Settings) -> "Maker":
        num_images = sum(len(positions) for _, positions in divided.values())
        return Maker(out, divided, settings, len(source.classes) or most_classes(num_images))

    def __call__(self, one: Span) -> ShardRecord:
        """Write one planned shard, in this process alone."""
        _, positions = self.divided[one.split]
        return self.write(one, self.prepared(one.split, positions[one.start : one.stop], workers=1))

    def prepared(self, split: str, positions: npt.NDArray[np.int64], workers: int) -> Iterator[Prepared]:
        """One result for each position in the source, in order."""
        read = self.divided[split][0].read
        return prepare_in_order(read, positions, self.settings.encoding, self.num_classes, workers)

    def write(
        self, one: Span, prepared: Iterator[Prepared], on_images: Callable[[int], object] = lambda count: None
    ) -> ShardRecord:
        """Write a shard of the next of ``prepared``: of all its positions, or up to where it has its bytes.

        It is whole or absent, and absent where none of its images is usable. on_images: told of each position.
        """
        content, positions = self.divided[one.split]
        addressable, most = self.settings.encoding.addressable, self.settings.shard_bytes
        writer, tally, units = ShardWriter(self.out, one.name), Tally(), []
        rejected, reencoded = list[Rejected](), Counter[str]()
        position = one.start
        try:
            while position < one.stop and not (most is not None and writer.num_bytes >= most):
                result = next(prepared)
                if isinstance(result, PreparedImage):
                    writer.add(f"{position:08d}", (result.data, result.extension, result.label))
                    if result.stored is not None:
                        tally.add(result.stored)
                        units.append(result.stored.units)
                    if result.reencoded:
                        reencoded[result.reencoded] += 1
                else:
                    rejected.append({"source": content.names[positions[position]], "reason": result})
                position += 1
                on_images(1)
            size_bytes, sha256 = writer.finish() if writer.num_samples else (0, "")
        except BaseException:
            writer.abandon()
            raise
        if not writer.num_samples:
            writer.abandon()
        if addressable and writer.num_samples:
            tar = self.out / one.name
            write_units(tar, scan_shard(tar).digest, units)
        return ShardRecord(
            one.split,
            one.name,
            writer.num_samples,
            size_bytes,
            sha256,
            position,
            rejected,
            addressable=tally.as_json() if addressable else None,
            reencoded=dict(reencoded),
        )
