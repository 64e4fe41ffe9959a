"""Which examples an epoch sees: beside slow references, and the gradient over all draws that there can be."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.examples import RULES, Chosen, ExamplesConfig, check_fits, choose_examples

UNKNOWN = float("nan")
LOSSES = {
    "few hard ones": [0.1, 0.2, 5.0, 0.3, 0.1, 4.0],
    "more hard ones than have room": [5.0, 5.0, 5.0, 4.0, 0.1, 5.0],
    "all alike": [1.0] * 6,
    "nothing known": [UNKNOWN] * 6,
    "some not known": [UNKNOWN, 0.1, 0.2, UNKNOWN, 3.0, 0.1],
}


def drawn(rule: str, scores: list[float], num_kept: int, draws: list[int]) -> Chosen:
    return RULES[rule].choose(np.array(scores, np.float32), num_kept, np.array(draws, np.uint64))


def exact(weight: np.float32) -> Fraction:
    """The ratio of two small numbers that a float32 stands for."""
    return Fraction(float(weight)).limit_denominator(100)


def expected_weights(rule: str, scores: list[float], num_kept: int) -> list[Fraction]:
    """For each example its weight, 0 where it is left out, averaged over every order that its draws can have."""
    sums, orders = [Fraction(0)] * len(scores), list(permutations(range(len(scores))))
    for draws in orders:
        places, weights = drawn(rule, scores, num_kept, list(draws))
        for at, place in enumerate(places):
            sums[place] += 1 if weights is None else exact(weights[at])
    return [one / len(orders) for one in sums]


@pytest.mark.parametrize("num_kept", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_by_loss_the_expected_gradient_over_all_draws_is_the_whole_gradient_exactly(
    losses: list[float], num_kept: int
) -> None:
    gradients = [[Fraction(3 * i * i - 7, 5), Fraction(i, 3)] for i in range(len(losses))]  # as good as any others
    weights = expected_weights("loss", losses, num_kept)
    expected = [sum(w * g[axis] for w, g in zip(weights, gradients, strict=True)) for axis in (0, 1)]
    assert expected == [sum(g[axis] for g in gradients) for axis in (0, 1)]
    assert weights == [1] * len(losses)


@pytest.mark.parametrize("num_kept", [1, 2, 5])
def test_by_chance_every_example_is_as_likely_and_weighs_one(num_kept: int) -> None:
    assert expected_weights("random", [UNKNOWN] * 6, num_kept) == [Fraction(num_kept, 6)] * 6


examples = st.integers(2, 40).flatmap(
    lambda size: st.tuples(
        st.lists(st.one_of(st.sampled_from([0.5, 1.0, 2.0, UNKNOWN]), st.floats(0, 9, width=32)), min_size=size)
        .map(lambda scores: scores[:size])
        .filter(lambda scores: len(scores) == size),
        st.integers(2, size),
        st.permutations(range(size)),
    )
)


@given(examples)
def test_by_loss_all_hard_examples_are_kept_and_the_easy_ones_weigh_more(
    given_examples: tuple[list[float], int, list[int]],
) -> None:
    scores, num_kept, draws = given_examples
    places, weights = drawn("loss", scores, num_kept, draws)
    assert weights is not None
    known = [np.float64(np.float32(score)) for score in scores if score == score]
    mean = np.mean(known) if known else np.inf
    easy = [i for i, score in enumerate(scores) if np.float32(score) <= mean] if known else []
    hard = [i for i in range(len(scores)) if i not in easy] if known else []
    easy = easy if known else list(range(len(scores)))  # nothing is known: all are alike
    least_easy = -(-len(easy) * num_kept // (4 * len(scores)))
    num_easy = max(num_kept - len(hard), least_easy)
    wanted = {i: len(easy) / num_easy for i in sorted(easy, key=draws.__getitem__)[:num_easy]}
    num_hard = num_kept - num_easy
    wanted |= {i: len(hard) / num_hard for i in sorted(hard, key=draws.__getitem__)[:num_hard]}
    assert places.tolist() == sorted(wanted)
    np.testing.assert_allclose(weights, [wanted[i] for i in sorted(wanted)], rtol=1e-6)
    assert weights.max() <= 4 * len(scores) / num_kept + 1e-6
    if len(hard) <= num_kept - least_easy:
        assert set(hard) <= set(places.tolist())
        assert {weights[at] for at, place in enumerate(places) if place in hard} <= {1.0}


@given(examples)
def test_by_forgetting_nobody_left_out_was_forgotten_more_often_than_anybody_kept(
    given_examples: tuple[list[float], int, list[int]],
) -> None:
    scores, num_kept, draws = given_examples
    places, weights = drawn("forgetting", scores, num_kept, draws)
    times = [np.inf if score != score else np.float32(score) for score in scores]
    first = sorted(range(len(scores)), key=lambda i: (-times[i], draws[i]))[:num_kept]
    assert places.tolist() == sorted(first)
    assert weights is None


@pytest.mark.parametrize("rule", RULES)
def test_what_an_epoch_sees_is_keyed_by_seed_and_epoch(rule: str) -> None:
    config = ExamplesConfig(rule=rule, keep=0.5)

    def places(seed: int, epoch: int) -> list[int]:
        chosen = choose_examples(config, None, seed=seed, epoch=epoch, num_samples=200, num_kept=100)
        assert len(set(chosen.places.tolist())) == 100
        return chosen.places.tolist()

    assert places(0, 1) == places(0, 1)
    assert places(0, 1) != places(0, 2)
    assert places(0, 1) != places(1, 1)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"echo": 2}, "data.echo 2 shows them several times; set data.echo to 1"),
        ({"repeats": 3}, "data.augment.repeats 3 shows them several times"),
        ({"task": "pretrain"}, "rule forgetting looks at classes, which task pretrain has none of; choose one of loss"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(others: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_fits(
            ExamplesConfig(rule="forgetting", keep=0.5), **{"echo": 1, "repeats": 1, "task": "classify", **others}
        )


def test_an_unknown_rule_is_an_error_that_lists_all() -> None:
    with pytest.raises(ValueError, match="'loss', 'forgetting' or 'random'"):
        ExamplesConfig(rule="hardest", keep=0.5)
