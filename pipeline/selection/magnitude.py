"""The paper's rule: the magnitude of a patch as the model embeds it.

McDanel & Huynh (arXiv 2208.09520, section 3.2) rank patches by the L1 norm of the embedded patch, its position added
where the model adds one. The rule looks through the model, so the pipeline works with a *snapshot* of the embedding
that the trainer hands over at planned steps.

The exact score costs what the embedding of the whole image costs, which is just what selecting patches in the
pipeline saves. Two estimates of it read fewer numbers: ``rows`` sums over some rows of the embedding only, ``sketch``
takes the L2 norm in the few directions of pixel space in which natural images vary and the embedding looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from pipeline.plan.keyed import KeyedRows, Stream
from pipeline.selection.patches import patchify

# Every estimate of the score, with what its size counts.
ESTIMATES = {"sketch": "directions", "rows": "rows"}

# Natural images as the first-order Markov field that transform coding assumes (Jain, "Fundamentals of Digital Image
# Processing", 1989, section 2.9): correlation between neighbouring pixels, and between the channels of one pixel.
_NEIGHBOUR_CORRELATION, _CHANNEL_CORRELATION = 0.95, 0.9
_IMAGES_AT_A_TIME = 4


class Estimated(Protocol):
    """How the score is estimated; a ``SelectionConfig`` says it."""

    @property
    def estimate(self) -> str: ...
    @property
    def estimate_size(self) -> int: ...


@dataclass(frozen=True)
class EmbeddingSnapshot:
    """A model's patch embedding as it was before one step of training, on raw pixel values.

    Attributes:
        step: the snapshot decides on the patches of this step, and of the later ones up to the next snapshot's.
        kernel: float32 [D, P*P*3], (row, column, channel) order; normalisation and the scale of 1 / 255 are folded in.
        offsets: float32 [N, D] or [1, D]: what is added to ``kernel @ patch`` at each place of the grid, bias and
            position.
        mean_patch: float32 [P*P*3], the raw values of a patch of the mean colour.
    """

    step: int
    kernel: np.ndarray
    offsets: np.ndarray
    mean_patch: np.ndarray

    @classmethod
    def of(
        cls,
        step: int,
        kernel: np.ndarray,
        bias: np.ndarray,
        positions: np.ndarray | None,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> "EmbeddingSnapshot":
        """From an embedding of normalised patches.

        Args:
            kernel: [D, P*P*3]. bias: [D]. positions: [N, D], None where the model adds none.
            mean, std: per channel, of values in [0, 1].
        """
        num_pixels = kernel.shape[1] // len(mean)
        mean_patch = 255 * np.tile(np.asarray(mean, dtype=np.float64), num_pixels)
        raw_kernel = kernel.astype(np.float64) / (255 * np.tile(np.asarray(std, dtype=np.float64), num_pixels))
        offsets = (bias - raw_kernel @ mean_patch)[None]
        if positions is not None:
            offsets = offsets + positions
        return cls(step, *(a.astype(np.float32) for a in (raw_kernel, offsets, mean_patch)))


def check_estimate(selection: Estimated, kernel: np.ndarray) -> None:
    """Raise ValueError for an estimate larger than the embedding, whose kernel is [D, P*P*3]."""
    limit = {"rows": kernel.shape[0], "sketch": min(kernel.shape), "none": None}[selection.estimate]
    if limit is not None and selection.estimate_size > limit:
        raise ValueError(
            f"selection.estimate_size is {selection.estimate_size}, but the embedding has no more than {limit} "
            f"{ESTIMATES[selection.estimate]}; give a smaller size, or estimate: none"
        )


class MagnitudeScorer:
    """Scores of patches under one snapshot, exact or estimated.

    Every image is worked on by itself in arrays of one shape, so its scores do not depend on the batch it is in.

    Args:
        selection: ``rule: magnitude``; says whether and how to estimate.
        grid_size: patches along one side of the image.
        seed: key of the rows that the estimate ``rows`` reads.

    Raises:
        ValueError: an estimate larger than the embedding.
    """

    def __init__(self, snapshot: EmbeddingSnapshot, selection: Estimated, grid_size: int, seed: int) -> None:
        self.grid_size = grid_size
        self._rest = np.zeros(1, dtype=np.float32)
        kernel, offsets = snapshot.kernel, snapshot.offsets
        check_estimate(selection, kernel)
        self.is_squared = selection.estimate == "sketch"
        self.scale = 1.0
        if selection.estimate == "rows":
            draws = KeyedRows(seed, 0, 0, kernel.shape[0]).uniform(Stream.EMBEDDING_ROWS, 1)
            rows = np.sort(np.argsort(draws[:, 0], kind="stable")[: selection.estimate_size])
            self.scale = kernel.shape[0] / len(rows)
            kernel, offsets = kernel[rows], offsets[:, rows]
        if self.is_squared:
            kernel, offsets, self._rest = _sketch(snapshot, selection.estimate_size)
            # The mean of |z| over a normal variable is sqrt(2 / pi) of its root mean square.
            self.scale = float(np.sqrt(2 / np.pi * snapshot.kernel.shape[0]))
        self._kernel_t = np.ascontiguousarray(kernel.T)
        self._offsets = np.ascontiguousarray(offsets)

    def patch_scores(self, patches: np.ndarray) -> np.ndarray:
        """The L1 norm of every embedded patch, or its estimate: float32 [B, N] from uint8 [B, N, P*P*3]."""
        # A product of one shape for each image, a few of them at a time, which stay in the processor's cache.
        parts = [
            self._scored(patches[start : start + _IMAGES_AT_A_TIME].astype(np.float32))
            for start in range(0, len(patches), _IMAGES_AT_A_TIME)
        ]
        return np.concatenate(parts)

    def _scored(self, patches: np.ndarray) -> np.ndarray:
        embedded = np.matmul(patches, self._kernel_t)
        embedded += self._offsets
        if self.is_squared:
            total = np.einsum("bnd,bnd->bn", embedded, embedded) + self._rest
            return (self.scale * np.sqrt(total)).astype(np.float32)
        np.abs(embedded, out=embedded)
        return embedded.sum(axis=2) * np.float32(self.scale)

    def score(self, image: np.ndarray) -> np.ndarray:
        """The same of one image: float32 [N] from uint8 [S, S, 3]."""
        return self.scores([image])[0]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the score is computed from, float32: kernel [R, P*P*3], offsets [N, R] or [1, R], rest [N] or [1]."""
        return self._kernel_t.T, self._offsets, self._rest

    def scores(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [B, N] from B images uint8 [S, S, 3]."""
        return self.patch_scores(patchify(np.stack(images), images[0].shape[0] // self.grid_size))


def _sketch(snapshot: EmbeddingSnapshot, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The embedding in the ``size`` directions of its output in which natural patches differ most.

    The squared norm of ``kernel @ patch + offset`` falls apart into orthogonal directions. The first ones are computed;
    in the others every patch is taken for one of the mean colour, which leaves a constant for each place.

    Returns:
        kernel float32 [size, P*P*3], offsets float32 [N, size], rest float32 [N], the others' squared norm.
    """
    kernel, offsets = snapshot.kernel.astype(np.float64), snapshot.offsets.astype(np.float64)
    directions, _, _ = np.linalg.svd(kernel @ _covariance_root(kernel.shape[1]), full_matrices=False)
    kept = directions[:, :size]
    at_mean = offsets + kernel @ snapshot.mean_patch
    rest = np.maximum((at_mean**2).sum(axis=1) - ((at_mean @ kept) ** 2).sum(axis=1), 0)
    return (kept.T @ kernel).astype(np.float32), (offsets @ kept).astype(np.float32), rest.astype(np.float32)


@cache
def _covariance_root(num_values: int) -> np.ndarray:
    """A square root of the covariance of natural patches' values: float64 [P*P*3, P*P*3]."""
    side = np.arange(round((num_values / 3) ** 0.5))
    along = np.linalg.cholesky(_NEIGHBOUR_CORRELATION ** np.abs(np.subtract.outer(side, side)))
    between = np.linalg.cholesky(np.where(np.eye(3, dtype=bool), 1.0, _CHANNEL_CORRELATION))
    return np.kron(np.kron(along, along), between)
