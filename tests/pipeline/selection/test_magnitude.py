from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from PIL import Image

from benchmarks.shared.photographs import photograph
from pipeline.graph.on_device import magnitude_scores
from pipeline.selection.config import SelectionConfig
from pipeline.selection.magnitude import EmbeddingSnapshot, MagnitudeScorer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXACT = SelectionConfig(rule="magnitude")
GRID, PATCH, DIM = 14, 16, 192


def photo(seed: int, size: int = GRID * PATCH) -> np.ndarray:
    return np.asarray(Image.fromarray(photograph(seed)).crop((60, 20, 400, 360)).resize((size, size)))


def random_embedding(seed: int = 0, dim: int = DIM, patch: int = PATCH, grid: int = GRID) -> tuple[np.ndarray, ...]:
    """Kernel, bias and positions of a freshly initialised embedding."""
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((dim, patch * patch * 3)).astype(np.float32) / np.float32(np.sqrt(patch * patch * 3))
    return kernel, *(0.05 * rng.standard_normal(shape).astype(np.float32) for shape in ((dim,), (grid * grid, dim)))


def snapshot_of(kernel: np.ndarray, bias: np.ndarray, positions: np.ndarray | None) -> EmbeddingSnapshot:
    return EmbeddingSnapshot.of(0, kernel, bias, positions, mean=MEAN, std=STD)


def overlap(scores: np.ndarray, others: np.ndarray, num_kept: int) -> float:
    pairs = zip(scores, others, strict=True)
    return float(np.mean([len(set(np.argsort(-a)[:num_kept]) & set(np.argsort(-b)[:num_kept])) for a, b in pairs]))


@pytest.mark.parametrize("with_positions", [True, False])
def test_the_exact_score_is_the_l1_norm_of_the_normalised_patch_embedded_and_placed(with_positions: bool) -> None:
    kernel, bias, positions = random_embedding()
    image = photo(0)
    scorer = MagnitudeScorer(snapshot_of(kernel, bias, positions if with_positions else None), EXACT, GRID, seed=0)
    scores = scorer.score(image)
    wanted = []
    for number, patch in enumerate(reference.patchify(image, PATCH)):
        pixels = (patch.reshape(-1, 3) / 255 - np.array(MEAN)) / np.array(STD)
        token = kernel.astype(np.float64) @ pixels.reshape(-1) + bias
        wanted.append(np.abs(token + positions[number] if with_positions else token).sum())
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, wanted, rtol=1e-4)


def test_the_scores_of_an_image_are_the_same_bits_in_every_batch() -> None:
    images = [photo(seed) for seed in range(5)]
    scorer = MagnitudeScorer(snapshot_of(*random_embedding()), EXACT, GRID, seed=0)
    together = scorer.scores(images)
    alone = np.concatenate([scorer.scores([image]) for image in reversed(images)])[::-1]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(("estimate", "size"), [("rows", DIM), ("sketch", DIM)])
def test_an_estimate_of_full_size_ranks_as_its_own_definition_does(estimate: str, size: int) -> None:
    kernel, bias, positions = random_embedding()
    snapshot, images = snapshot_of(kernel, bias, positions), [photo(seed) for seed in range(3)]
    found = MagnitudeScorer(snapshot, SelectionConfig(rule="magnitude", estimate=estimate, estimate_size=size), GRID, 0)
    tokens = np.stack([reference.patchify(image, PATCH) @ snapshot.kernel.T + snapshot.offsets for image in images])
    # All rows: the exact rule. All directions: the L2 norm, brought to the scale of the L1 norm of normal variables.
    l1, l2 = np.abs(tokens).sum(2), np.linalg.norm(tokens, axis=2)
    wanted = l1 if estimate == "rows" else l2 * np.sqrt(2 / np.pi * DIM)
    np.testing.assert_allclose(found.scores(images), wanted, rtol=1e-4)


@pytest.mark.parametrize("estimate", ["rows", "sketch"])
def test_an_estimate_of_a_tenth_of_the_size_is_on_the_exact_scale_and_keeps_most_of_the_same_patches(
    estimate: str,
) -> None:
    snapshot, images = snapshot_of(*random_embedding(dim=384)), [photo(seed) for seed in range(6)]
    exact = MagnitudeScorer(snapshot, EXACT, GRID, 0).scores(images)
    config = SelectionConfig(rule="magnitude", estimate=estimate, estimate_size=38)
    found = MagnitudeScorer(snapshot, config, GRID, 0).scores(images)
    np.testing.assert_allclose(found.mean(), exact.mean(), rtol=0.1)
    assert overlap(exact, found, 78) >= (0.95 if estimate == "sketch" else 0.85) * 78


def test_a_sketch_knows_where_the_positions_are_large() -> None:
    """Even outside of the directions it computes."""
    kernel, bias, positions = random_embedding()
    positions[50] *= 40
    config = SelectionConfig(rule="magnitude", estimate="sketch", estimate_size=4)
    scores = MagnitudeScorer(snapshot_of(kernel, bias, positions), config, GRID, 0).score(np.full((224, 224, 3), 115))
    assert scores.argmax() == 50


def test_the_rows_of_an_estimate_are_drawn_from_the_seed() -> None:
    snapshot, images = snapshot_of(*random_embedding()), [photo(0)]
    config = SelectionConfig(rule="magnitude", estimate="rows", estimate_size=20)
    first, again, other = (MagnitudeScorer(snapshot, config, GRID, seed).scores(images) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("estimate", "limit"), [("rows", "192 rows"), ("sketch", "192 directions")])
def test_an_estimate_larger_than_the_embedding_is_refused(estimate: str, limit: str) -> None:
    config = SelectionConfig(rule="magnitude", estimate=estimate, estimate_size=193)
    with pytest.raises(ValueError, match=limit):
        MagnitudeScorer(snapshot_of(*random_embedding()), config, GRID, 0)


@pytest.mark.parametrize("estimate", ["none", "rows", "sketch"])
def test_scores_in_torch_are_the_same_within_rounding(estimate: str) -> None:
    images = [photo(seed) for seed in range(3)]
    config = SelectionConfig(rule="magnitude", estimate=estimate, estimate_size=20)
    scorer = MagnitudeScorer(snapshot_of(*random_embedding()), config, GRID, 0)
    on_device = magnitude_scores(scorer, torch.device("cpu"))(torch.from_numpy(np.stack(images)))
    np.testing.assert_allclose(on_device.numpy(), scorer.scores(images), rtol=1e-4)


def test_a_snapshot_is_bit_for_bit_a_function_of_the_weights() -> None:
    first, again = (snapshot_of(*random_embedding()) for _ in range(2))
    assert replace(first).kernel.tobytes() == again.kernel.tobytes()
    assert first.offsets.tobytes() == again.offsets.tobytes()
