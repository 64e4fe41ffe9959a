import pytest

from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.ramps import KINDS
from tools.fit.families import FAMILIES, Family

CASES = [(kind, family) for kind, about in KINDS.items() for family in FAMILIES[about.form]]


def tokens(kind: str, family: Family, spend: float, lowest: float) -> int:
    config = ScheduleConfig.model_validate({"kind": kind, **family(spend, lowest)})
    schedule = PatchSchedule(config, 196, 1000, 100, 8)
    return sum(stage.num_steps * (stage.num_kept + 1) for stage in schedule.stages())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_schedule_has_a_form_that_can_be_fitted(kind: str) -> None:
    assert FAMILIES[KINDS[kind].form]


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_who_spends_more_looks_at_more_and_every_spending_is_a_schedule(kind: str, family: Family) -> None:
    spent = [tokens(kind, family, spend / 40, 0.2) for spend in range(41)]
    assert spent == sorted(spent)
    assert len(set(spent)) > 20


@pytest.mark.parametrize(("kind", "family"), CASES)
@pytest.mark.parametrize("lowest", [0.2, 39 / 197, 0.3, 0.99])
def test_no_rate_is_below_the_smallest_and_the_most_is_full_patches(kind: str, family: Family, lowest: float) -> None:
    for spend in (0.0, 0.3, 1.0):
        rates = ScheduleConfig.model_validate({"kind": kind, **family(spend, lowest)}).rates()
        assert lowest - 1e-4 <= min(rates) <= max(rates) <= 1
    assert tokens(kind, family, 1.0, lowest) == pytest.approx(1000 * 197, rel=1e-3)


def test_a_ramp_spends_least_from_the_smallest_rate_on() -> None:
    first, second, *_ = (family(0.0, 0.2) for family in FAMILIES[KINDS["linear"].form])
    assert first == {"keep_rate": [0.2, 1.0], "rounding": 0.2}
    assert second == {"keep_rate": [0.2, 0.84], "rounding": 0.16}
