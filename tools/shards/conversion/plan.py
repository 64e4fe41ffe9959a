"""What a conversion will write, before any image is read: the splits, the order of their images, and the shards.

A shard is a range of positions of its split, and an image's key is its position. So what one shard holds depends on no
other, and whoever writes it writes the same bytes.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.shards.dataset import FORMAT_VERSION
from tools.shards.images import Encoding
from tools.shards.sources.source import Source, SourceSplit

KEYS = "positions"
"""What samples are called by. Folders from before this was written down number the usable images alone."""

Divided = dict[str, tuple[SourceSplit, npt.NDArray[np.int64]]]


@dataclass(frozen=True)
class Settings:
    """What shapes the result.

    shard_samples: positions of a shard. shard_bytes: a shard that reaches so many ends earlier, and the next begins
    there; None: shards are planned by positions alone.
    """

    val_fraction: float = 0.0
    shard_samples: int = 1000
    shard_bytes: int | None = None
    seed: int = 0
    encoding: Encoding = field(default_factory=Encoding)

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val-fraction {self.val_fraction}; allowed is 0 up to, but not including, 1")
        for name, value in (("shard-samples", self.shard_samples), ("shard-bytes", self.shard_bytes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}; allowed is 1 or more")


@dataclass(frozen=True)
class Span:
    """A shard as planned: the positions ``start`` to ``stop`` of a split."""

    split: str
    name: str
    start: int
    stop: int


def span(split: str, number: int, start: int, stop: int) -> Span:
    """The shard of that number, from 0."""
    return Span(split, f"{split}-{number:06d}.tar", start, stop)


def plan_shards(divided: Divided, shard_samples: int) -> list[Span]:
    """Every shard of every split, where no bytes end one."""
    return [
        span(split, number, start, min(start + shard_samples, len(positions)))
        for split, (_, positions) in divided.items()
        for number, start in enumerate(range(0, len(positions), shard_samples))
    ]


def divide(source: Source, settings: Settings) -> Divided:
    """Output split -> where it comes from and the positions there, in the order in which they are written.

    Which images are held out, and the order, are keyed by seed and name: neither depends on how the source lists
    them, and an image that joins the source moves no other from one split to another.
    """
    if settings.val_fraction and set(source.splits) != {"train"}:
        raise ValueError(f"the source has splits of its own ({', '.join(source.splits)}); leave --val-fraction out")
    parts = {}
    for split, content in source.splits.items():
        order = _keyed_order(content, settings.seed)
        if not settings.val_fraction:
            parts[split] = (content, order)
            continue
        draws = np.array([_hash(settings.seed, "val", name) for name in content.names], dtype=np.uint64)
        held_out = (draws / 2.0**64)[order] < settings.val_fraction
        for name, chosen in (("train", order[~held_out]), ("val", order[held_out])):
            if not len(chosen):
                raise ValueError(
                    f"--val-fraction {settings.val_fraction} leaves no image for split '{name}' "
                    f"of {len(content.names)}; choose another fraction or seed"
                )
            parts[name] = (content, chosen)
    return parts


def job_of(source: Source, settings: Settings) -> dict[str, Any]:
    """All that decides on the bytes. How the source was named is not part of it: a folder may be moved."""
    values = asdict(settings)
    encoding = values.pop("encoding")
    if not encoding["addressable"]:
        del encoding["addressable"]  # as in folders that were made before there was the choice
    return {
        "format_version": FORMAT_VERSION,
        **encoding,
        **values,
        "keys": KEYS,
        "fingerprint": source.fingerprint,
    }


def _keyed_order(content: SourceSplit, seed: int) -> npt.NDArray[np.int64]:
    draws = np.array([_hash(seed, "order", name) for name in content.names], dtype=np.uint64)
    if content.blocks is None:
        return np.argsort(draws, kind="stable")
    # Blocks first, so that each is read once: images of different blocks do not mix, and need not, because the
    # loader shuffles the whole split.
    blocks = np.array(content.blocks)
    block_draws = np.array(
        [_hash(seed, "block", str(block)) for block in range(int(blocks.max()) + 1)], dtype=np.uint64
    )
    return np.lexsort((draws, block_draws[blocks]))


def _hash(seed: int, purpose: str, name: str) -> int:
    text = f"{seed}\0{purpose}\0{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
