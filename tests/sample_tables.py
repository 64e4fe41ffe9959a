"""Data sets as plans see them: sizes and labels without images."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SampleTable:
    """A data set as a plan sees it."""

    shard_sizes: np.ndarray
    label: np.ndarray
    width: np.ndarray
    height: np.ndarray
    levels: tuple["SampleTable", ...] = ()

    @property
    def num_samples(self) -> int:
        return int(self.shard_sizes.sum())

    def sample_ids(self, positions: np.ndarray) -> np.ndarray:
        return positions


def samples(num_samples: int, shard_size: int = 16) -> SampleTable:
    """Labels are the sample ids, so that a mix-up shows; sizes vary from sample to sample."""
    ids = np.arange(num_samples)
    sizes = np.full(-(-num_samples // shard_size), shard_size)
    sizes[-1] -= sizes.sum() - num_samples
    return SampleTable(
        sizes, ids.astype(np.int32), (200 + ids % 71 * 5).astype(np.int32), (150 + ids % 53 * 7).astype(np.int32)
    )
