"""The rules by which patches are kept, in one table that everyone asks.

A rule chooses patches from planned random numbers alone, or gives every patch a score, of which the ``num_kept`` best
are kept; they are handed on in raster order, ties going to the lower patch index. A new rule is an entry of ``RULES``.
Under ``map`` the scores are stored: ``graph.score_maps`` makes them the patches'.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from pipeline.selection.magnitude import EmbeddingSnapshot, Estimated, MagnitudeScorer

LooksAt = Literal["plan", "map", "pixels", "model"]
# Whether images have to be made before patches can be chosen.
_LOOKS_AT_IMAGES: dict[LooksAt, bool] = {"plan": False, "map": False, "pixels": True, "model": True}
Scores = Callable[[Sequence[np.ndarray]], np.ndarray]  # B images uint8 [S, S, 3] to float32 [B, N]


@dataclass(frozen=True)
class Rule:
    """What everyone else has to know of a rule.

    Attributes:
        about: what it keeps, in a line.
        looks_at: what its choice follows from: planned random numbers alone, a score map of the stored image, the
            finished image's pixels, or these and the model's embedding.
        num_noise: random numbers for one image, by the number of patches.
        choose: under ``plan``: (noise float32 [B, C], num_kept, grid_size) to ids int32 [B, K], ascending.
        scores: under ``pixels``: (images, grid_size) to float32 [B, N]; the images are uint8 [S, S, 3] each.
        scorer: under ``model``: (snapshot, estimate, grid_size, seed) to an object whose ``scores`` does the same.
        kernel: name under which compiled kernels score it, in the graph and on images that are not resampled yet; None
            where ``scores`` is all there is.
        estimates: whether ``selection.estimate`` applies.
    """

    about: str
    looks_at: LooksAt
    num_noise: Callable[[int], int] = lambda num_patches: 0
    choose: Callable[[np.ndarray, int, int], np.ndarray] | None = None
    scores: Callable[[Sequence[np.ndarray], int], np.ndarray] | None = None
    scorer: Callable[[EmbeddingSnapshot, Estimated, int, int], MagnitudeScorer] | None = None
    kernel: str | None = None
    estimates: bool = False

    @property
    def is_scored(self) -> bool:
        """Whether patches have scores, which a temperature could soften."""
        return self.choose is None

    @property
    def looks_at_images(self) -> bool:
        """Whether its choice has to wait for images; else it follows from a plan, and a score map where it says so."""
        return _LOOKS_AT_IMAGES[self.looks_at]


def top_k(scores: np.ndarray, num_kept: int) -> np.ndarray:
    """Indices of the ``num_kept`` largest scores of every row, ascending; ties go to the lower index.

    Args:
        scores: float [B, N], no NaN.

    Returns:
        int32 [B, K].
    """
    num_rows, num_patches = scores.shape
    worst = np.partition(scores, num_patches - num_kept, axis=1)[:, num_patches - num_kept, None]  # of those kept
    kept = scores >= worst
    if np.count_nonzero(kept) > num_rows * num_kept:
        tied = scores == worst
        room = num_kept - np.count_nonzero(scores > worst, axis=1)
        kept &= ~tied | (np.cumsum(tied, axis=1) <= room[:, None])
    places = np.flatnonzero(kept).reshape(num_rows, num_kept) - num_patches * np.arange(num_rows)[:, None]
    return places.astype(np.int32)


def perturbed(scores: np.ndarray, noise: np.ndarray, temperature: float) -> np.ndarray:
    """Scores whose top k is a weighted sample without replacement, chances proportional to exp(score / temperature).

    The Gumbel top-k trick (Kool, van Hoof & Welling, arXiv 1903.06059, section 2.3). A temperature of 0 returns the
    scores.

    Args:
        scores: float32 [B, N].
        noise: float32 [B, N], uniform in [0, 1).
    """
    if temperature == 0:
        return scores
    return scores.astype(np.float64) / temperature + gumbel(noise)


def gumbel(noise: np.ndarray) -> np.ndarray:
    """Numbers of the standard Gumbel distribution, float64, from uniform ones in [0, 1), float32."""
    # The middle of each cell of the 2**-24 grid: never 0, never 1.
    return -np.log(-np.log(noise.astype(np.float64) + 2.0**-25))


def random_ids(noise: np.ndarray, num_kept: int, grid_size: int) -> np.ndarray:
    """The patches with the largest random numbers: int32 [B, K] from float32 [B, N]."""
    return top_k(noise, num_kept)


@cache
def _hilbert_curve(grid_size: int) -> np.ndarray:
    """Raster indices of a grid along a Hilbert curve through the next power of two: int32 [N]. Neighbours stay near."""
    order = 1 << max(grid_size - 1, 1).bit_length()
    cells = np.empty(order * order, dtype=np.int32)
    for distance in range(order * order):
        x = y = 0
        rest, side = distance, 1
        while side < order:
            right, up = 1 & (rest // 2), 1 & (rest ^ (rest // 2))
            if up == 0:
                if right == 1:
                    x, y = side - 1 - x, side - 1 - y
                x, y = y, x
            x, y = x + side * right, y + side * up
            rest, side = rest // 4, side * 2
        cells[distance] = y * grid_size + x if x < grid_size and y < grid_size else -1
    return cells[cells >= 0]


def grid_ids(phase: np.ndarray, num_kept: int, grid_size: int) -> np.ndarray:
    """Evenly spread patches: every (N / num_kept)-th cell of a Hilbert curve, from a random start.

    Systematic sampling: each patch is kept with chance num_kept / N, and every part of the image keeps about its share.

    Args:
        phase: float32 [B], uniform in [0, 1).

    Returns:
        int32 [B, K], ascending.
    """
    curve = _hilbert_curve(grid_size)
    starts = phase.astype(np.float64)[:, None] + np.arange(num_kept)[None, :]
    cells = np.minimum((starts * (len(curve) / num_kept)).astype(np.int64), len(curve) - 1)
    return np.sort(curve[cells], axis=1)


def contrast_scores(images: Sequence[np.ndarray], grid_size: int) -> np.ndarray:
    """Standard deviation of each patch's pixels around its mean colour, over 255: float32 [B, N]."""
    from pipeline.selection.kernels.contrast import patch_contrast  # numba takes long to import

    whole = (np.ascontiguousarray(image) for image in images)
    return np.stack([patch_contrast(image, len(image) // grid_size) for image in whole]).astype(np.float32)


RULES: dict[str, Rule] = {
    "random": Rule(
        "patches drawn at random",
        "plan",
        num_noise=lambda num_patches: num_patches,
        choose=random_ids,
    ),
    "grid": Rule(
        "patches spread evenly over the image",
        "plan",
        num_noise=lambda _: 1,
        choose=lambda noise, num_kept, grid_size: grid_ids(noise[:, 0], num_kept, grid_size),
    ),
    "contrast": Rule(
        "the patches whose pixels differ most from the patch's mean colour",
        "pixels",
        scores=contrast_scores,
        kernel="contrast",
    ),
    "magnitude": Rule(
        "the patches of the largest norm once the trained model has embedded and placed them",
        "model",
        scorer=MagnitudeScorer,
        estimates=True,
    ),
    "map": Rule("the patches whose stored score is highest", "map"),
}
