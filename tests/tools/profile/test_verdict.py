import math
import statistics

import pytest

from tools.profile.verdict import Ratio, pays
from tools.students import half_width


def around(speed: float, *percents: float) -> list[float]:
    """Repeats of a speed that are off by so many percent."""
    return [speed * (1 + percent / 100) for percent in percents]


CALM = (0, 1, -1, 0.5, -0.5)
STORM = (0, 40, -30, 20, -25)


def test_the_interval_of_a_mean_is_students() -> None:
    values = [1.0, 2.0, 4.0, 3.0, 5.0]
    assert half_width(values) == pytest.approx(2.776 * statistics.stdev(values) / math.sqrt(5))
    assert half_width(values * 20) == pytest.approx(2.1 * statistics.stdev(values * 20) / 10)
    assert half_width([1.0, 2.0]) is None


def test_dropping_pays_as_far_as_each_rate_is_clearly_faster() -> None:
    rates = [(1.0, around(100, *CALM)), (0.8, around(130, *CALM)), (0.6, around(130.3, *CALM[::-1]))]
    found = pays(rates)
    assert found is not None
    assert (found.down_to, found.undecided) == (0.8, {})  # 0.2 % more are within the spread, and no gain
    assert pays(rates[::-1]) == found
    assert pays([*rates, (0.4, around(160, *CALM))]).down_to == 0.4  # type: ignore[union-attr]
    assert pays([(1.0, [100.0] * 3), (0.5, [90.0] * 3)]).down_to == 1.0  # type: ignore[union-attr]
    assert pays([]) is None


def test_what_the_repeats_cannot_tell_is_left_undecided() -> None:
    found = pays([(1.0, around(100, *CALM)), (0.8, around(130, *CALM)), (0.6, around(140, *STORM))])
    assert found is not None
    assert (found.down_to, list(found.undecided)) == (0.8, [0.6])
    assert "5 repeats put the ratio at 0." in found.undecided[0.6].advice(1.0, 1.05)


def test_a_storm_that_reaches_all_stages_hides_nothing() -> None:
    found = pays([(1.0, around(100, *STORM)), (0.8, around(130, *STORM))])
    assert found is not None
    assert (found.down_to, found.undecided) == (0.8, {})


def test_a_faster_rate_below_decides_for_those_above() -> None:
    found = pays([(1.0, around(100, *CALM)), (0.6, around(103, *STORM)), (0.2, around(300, *CALM))])
    assert found is not None
    assert (found.down_to, found.undecided) == (0.2, {})


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_repeats_tell_nothing(count: int) -> None:
    ratio = Ratio.of([2.0] * count)
    assert ratio is not None
    assert (ratio.is_above, ratio.is_below, ratio.gains_nothing) == (False, False, False)
    assert ratio.advice(1.0) == f"{count} repeat(s) are too few; run with --repeats 5"


def test_the_number_of_repeats_that_would_tell_grows_with_the_spread() -> None:
    near, far = Ratio.of(around(1.1, -8, 8, -6, 6, 0)), Ratio.of(around(1.1, -30, 30, -25, 25, 0))
    assert near is not None
    assert far is not None
    advised = [int(one.advice(1.0).partition("--repeats ")[2].partition(",")[0]) for one in (near, far)]
    assert 5 < advised[0] < advised[1] <= 50
