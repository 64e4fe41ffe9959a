"""Which patches of an image are kept.

A rule gives every patch a score; the ``num_kept`` best are kept and handed on in raster order, ties going to the lower
patch index. These rules see only pixels or random numbers, never the model.
"""

from functools import cache

import numpy as np
from pydantic import ValidationError

from pipeline.config import SelectionConfig

RULE_FORMS = "random, grid, contrast, magnitude, magnitude:sketch:SIZE or magnitude:rows:SIZE"


def rule_from_text(text: str) -> SelectionConfig:
    """A rule by its name: one of ``RULE_FORMS``, such as ``contrast`` or ``magnitude:sketch:32``.

    Raises:
        ValueError: it is none of them.
    """
    rule, *estimate = text.split(":")
    if len(estimate) not in (0, 2):
        raise ValueError(f"a rule is {RULE_FORMS}; got {text!r}")
    values = dict(zip(("estimate", "estimate_size"), estimate, strict=False))
    try:
        return SelectionConfig.model_validate({"rule": rule, **values})
    except ValidationError:
        raise ValueError(f"a rule is {RULE_FORMS}; got {text!r}") from None


def rule_name(selection: SelectionConfig) -> str:
    """A rule as ``rule_from_text`` reads it; a temperature, which it does not read, follows behind."""
    name: str = selection.rule
    if selection.estimate != "none":
        name = f"{name}:{selection.estimate}:{selection.estimate_size}"
    return f"{name}, temperature {selection.temperature:g}" if selection.temperature else name


def patchify(images: np.ndarray, patch_size: int) -> np.ndarray:
    """Images uint8 [B, S, S, 3] as patches uint8 [B, N, P*P*3], raster order, (row, column, channel) within a patch."""
    batch, size = images.shape[:2]
    grid = size // patch_size
    tiles = images.reshape(batch, grid, patch_size, grid, patch_size * 3)
    return tiles.transpose(0, 1, 3, 2, 4).reshape(batch, grid * grid, -1)


def unpatchify(patches: np.ndarray, patch_size: int) -> np.ndarray:
    """All N patches of images, uint8 [B, N, P*P*3], back as images uint8 [B, S, S, 3]."""
    batch, num_patches = patches.shape[:2]
    grid = round(num_patches**0.5)
    tiles = patches.reshape(batch, grid, grid, patch_size, patch_size, 3).transpose(0, 1, 3, 2, 4, 5)
    return tiles.reshape(batch, grid * patch_size, grid * patch_size, 3)


def gather_patches(image: np.ndarray, ids_keep: np.ndarray, patch_size: int) -> np.ndarray:
    """The kept patches of one image: uint8 [S, S, 3] and int [K] to uint8 [K, P*P*3]. Only kept pixels are copied."""
    grid = image.shape[0] // patch_size
    rows, columns = np.divmod(ids_keep, grid)
    tiles = image.reshape(grid, patch_size, grid, patch_size * 3)
    return tiles[rows, :, columns].reshape(len(ids_keep), -1)


def patch_contrast(images: np.ndarray, patch_size: int) -> np.ndarray:
    """Standard deviation of each patch's pixels around its mean colour, over 255: uint8 [B, S, S, 3] to float32 [B, N].

    What the graph's node of the same name computes with DALI, up to the last bit of a float32. Sums are whole numbers
    here, so patches of one colour score 0 exactly, and patches with the same pixels in another order score alike.
    """
    num_pixels = patch_size**2
    scores = []
    for image in images:  # one by one, for the 64-bit copy is eight times as large
        pixels = patchify(image[None], patch_size)[0].reshape(-1, num_pixels, 3).astype(np.int64)
        spread = num_pixels * (pixels**2).sum(axis=1) - pixels.sum(axis=1) ** 2
        scores.append(np.sqrt(spread.mean(axis=1)) / (num_pixels * 255))
    return np.stack(scores).astype(np.float32)


def ids_dropped(ids_keep: np.ndarray, num_patches: int) -> np.ndarray:
    """The patches that are not kept, ascending: int [B, K], each once, to int32 [B, N - K]."""
    dropped = np.ones((len(ids_keep), num_patches), dtype=bool)
    np.put_along_axis(dropped, ids_keep.astype(np.int64), False, axis=1)
    return np.nonzero(dropped)[1].reshape(len(ids_keep), -1).astype(np.int32)


def top_k(scores: np.ndarray, num_kept: int) -> np.ndarray:
    """Indices of the ``num_kept`` largest scores of every row, ascending; ties go to the lower index.

    Args:
        scores: float [B, N], no NaN.

    Returns:
        int32 [B, K].
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :num_kept]
    return np.sort(best, axis=1).astype(np.int32)


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
    # The middle of each cell of the 2**-24 grid: never 0, never 1.
    centred = noise.astype(np.float64) + 2.0**-25
    return scores.astype(np.float64) / temperature - np.log(-np.log(centred))


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


def select(
    scores: np.ndarray | None, noise: np.ndarray, num_kept: int, grid_size: int, selection: SelectionConfig
) -> np.ndarray:
    """The kept patches of a batch under a rule.

    Args:
        scores: float32 [B, N] from the images where the rule has a score (``contrast``: the standard deviation of the
            patch's pixels around its mean colour, over 255), else None.
        noise: float32 [B, N], [B, 1] (``grid``) or [B, 0], uniform in [0, 1).

    Returns:
        int32 [B, K], ascending patch indices.
    """
    if selection.rule == "random":
        return top_k(noise, num_kept)
    if selection.rule == "grid":
        return grid_ids(noise[:, 0], num_kept, grid_size)
    assert scores is not None
    return top_k(perturbed(scores, noise, selection.temperature), num_kept)
