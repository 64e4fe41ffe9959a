import math
import statistics

import pytest

from tools.report.verdict import Verdict, Word, seeds_in_words


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ((0.0609 - 0.0222, 0.0609, 0.0609 + 0.0222), "clearly better"),
        ((-0.05, -0.06, -0.07), "clearly worse"),
        ((-0.01, 0.0, 0.011), "not told apart"),
        ((0.01, 0.06, 0.11), "not told apart"),  # above 0 in every seed, and still
        ((0.06,), "not told apart"),
        ((0.06, 0.0601), "not told apart"),  # two seeds do not know their spread
        ((0.0, 0.0, 0.0), "not told apart"),
        ((0.0609 - 0.0222, 0.0609, 0.0609 + 0.0222, 0.0609), "clearly better"),
    ],
)
def test_the_word_follows_the_interval(differences: tuple[float, ...], word: Word) -> None:
    assert Verdict(differences).word == word


def test_the_interval_is_students() -> None:
    differences = (0.01, 0.02, 0.04, 0.03, 0.05)
    expected = 2.776 * statistics.stdev(differences) / math.sqrt(5)
    assert Verdict(differences).half_width == pytest.approx(expected)
    assert Verdict(differences * 20).half_width == pytest.approx(2.1 * statistics.stdev(differences * 20) / 10)


@pytest.mark.parametrize(
    ("differences", "figures"),
    [
        ((0.0387, 0.0609, 0.0831), "+6.09 points, 95 % interval +0.57 to +11.61"),
        ((0.045, 0.077), "+6.10 points in two seeds: +4.50 and +7.70"),
        ((-0.045,), "-4.50 points in one seed"),
    ],
)
def test_figures_say_how_much_is_known(differences: tuple[float, ...], figures: str) -> None:
    assert Verdict(differences).figures.replace("\u00a0", " ") == figures


def test_seeds_are_counted_in_words() -> None:
    assert [seeds_in_words(counts) for counts in ([1], [2, 2], [1, 2], [1, 12])] == [
        "one seed",
        "two seeds",
        "one to two seeds",
        "one to 12 seeds",
    ]
