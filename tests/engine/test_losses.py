import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.losses import cross_entropy, topk_correct


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
