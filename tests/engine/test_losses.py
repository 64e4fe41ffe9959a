import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.losses import cross_entropy, topk_correct, training_loss


def slow_cross_entropy(logits: list[float], label: int, smoothing: float) -> float:
    x = torch.tensor(logits, dtype=torch.float64)
    log_probs = (x - x.max()) - (x - x.max()).exp().sum().log()
    target = torch.full_like(x, smoothing / len(logits))
    target[label] += 1 - smoothing
    return float(-(target * log_probs).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_each_sample_is_its_smoothed_cross_entropy(smoothing: float) -> None:
    logits, labels = torch.randn(6, 5) * 3, torch.tensor([0, 4, 2, 2, 1, 3], dtype=torch.int32)
    expected = [
        slow_cross_entropy(row, label, smoothing) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    losses = cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(losses.double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)


def test_the_loss_of_bfloat16_logits_is_computed_in_float32() -> None:
    logits, labels = torch.randn(8, 100).bfloat16(), torch.arange(8)
    losses = cross_entropy(logits, labels)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, cross_entropy(logits.float(), labels))


@given(
    rows=st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=1, max_size=6),
    label=st.integers(0, 3),
    k=st.integers(1, 6),
)
def test_a_label_is_among_the_top_k_as_in_a_stable_sort(rows: list[list[int]], label: int, k: int) -> None:
    expected = [label in sorted(range(4), key=lambda c, row=row: -row[c])[:k] for row in rows]
    labels = torch.full((len(rows),), label)
    assert topk_correct(torch.tensor(rows).float(), labels, k).tolist() == expected


def test_top_1_agrees_with_argmax() -> None:
    logits, labels = torch.randn(200, 10), torch.randint(0, 10, (200,))
    assert torch.equal(topk_correct(logits, labels, 1), logits.argmax(1) == labels)


def test_a_model_that_diverged_is_right_about_nothing() -> None:
    logits = torch.full((3, 10), float("nan"))
    assert not topk_correct(logits, torch.tensor([0, 5, 9]), 5).any()
    assert not topk_correct(logits, torch.tensor([0, 5, 9]), 10).any()


def test_a_constant_answer_is_right_once_in_as_many_times_as_there_are_classes() -> None:
    assert topk_correct(torch.zeros(10, 10), torch.arange(10), 1).sum() == 1


# Mixed labels


def dense_targets(
    labels: list[int], partners: list[int], weights: list[float], classes: int, smoothing: float
) -> Tensor:
    """float64 [B, classes]: each label's share of the target, the smoothed part spread over all classes."""
    targets = torch.full((len(labels), classes), smoothing / classes, dtype=torch.float64)
    for row, (own, partner, weight) in enumerate(zip(labels, partners, weights, strict=True)):
        targets[row, own] += (1 - smoothing) * weight
        targets[row, partner] += (1 - smoothing) * (1 - weight)
    return targets


LABELS, PARTNERS, WEIGHTS = [0, 4, 2, 2, 1, 3], [4, 0, 2, 2, 3, 1], [0.25, 0.25, 0.7, 0.7, 1.0, 1.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("is_mixed", [True, False])
def test_a_training_loss_is_that_of_the_dense_mixed_and_smoothed_target(
    kind: str, smoothing: float, is_mixed: bool
) -> None:
    logits = (torch.randn(6, 5) * 3).requires_grad_()
    weights = WEIGHTS if is_mixed else [1.0] * 6
    targets = dense_targets(LABELS, PARTNERS, weights, 5, smoothing)
    exact = logits.detach().double().requires_grad_()
    if kind == "cross_entropy":
        expected = -(targets * exact.log_softmax(1)).sum(1)
    else:
        yes, no = exact.sigmoid().log(), (1 - exact.sigmoid()).log()
        expected = -(targets * yes + (1 - targets) * no).mean(1)
    mixing = {"mix_labels": torch.tensor(PARTNERS), "mix_weights": torch.tensor(WEIGHTS)} if is_mixed else {}
    losses = training_loss(kind, logits, torch.tensor(LABELS), label_smoothing=smoothing, **mixing)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    losses.mean().backward()
    expected.mean().backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["cross_entropy", "binary_cross_entropy"])
def test_training_losses_of_bfloat16_logits_are_computed_in_float32(kind: str) -> None:
    logits, labels, weights = torch.randn(8, 100).bfloat16(), torch.arange(8), torch.full((8,), 0.3)
    mixing = {"label_smoothing": 0.1, "mix_labels": labels.flip(0), "mix_weights": weights}
    losses = training_loss(kind, logits, labels, **mixing)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, training_loss(kind, logits.float(), labels, **mixing))
