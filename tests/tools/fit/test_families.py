from pathlib import Path

import pytest

from engine.config import RunConfig, load_config
from engine.run_plan import build_schedule
from pipeline.ramps import KINDS
from tools.fit.families import FAMILIES, FORMS
from tools.fit.limits import Limits
from tools.schedule.preview import flops_counter

ROOT = Path(__file__).resolve().parents[3]
NUM_SAMPLES = 64_000  # 1,000 steps an epoch
CONFIG = load_config(ROOT / "configs" / "fashion_mnist.yaml", ["data.num_train_samples=64000"])
FLOPS = flops_counter(CONFIG)
WAYS = {
    family: [f"{family} {place}" for place in range(count)]
    for family, count in {
        **{kind: len(FORMS[about.form]) for kind, about in KINDS.items()},
        **{"image_size": 5, "image_size_linear": 4, "patch_size": 2, "patch_size_choice": 2},
        **{"sizes_and_keep": 4, "examples": 1},
    }.items()
}
CASES = [name for names in WAYS.values() for name in names]


def limits(lowest: float = 0.2, *overrides: str) -> Limits:
    """Of 49 patches: images of 12 to 28 pixels, of which nine patches are left, and patches of 7 pixels beside 4."""
    config = load_config(ROOT / "configs" / "fashion_mnist.yaml", list(overrides))
    return Limits(config, 1000, {12: 1.0, 16: 0.59, 20: 0.38, 24: 0.27, 28: lowest}, [7])


def with_values(name: str, spend: float, of: Limits) -> RunConfig:
    """The configuration with what a family's way puts there."""
    family, place = name.split()
    values = of.config.model_dump(mode="json")
    for key, value in FAMILIES[family](of)[int(place)](spend).items():
        section, within = key.split(".")
        values[section][within] = value
    return RunConfig.model_validate(values)


def operations(name: str, spend: float, of: Limits) -> int:
    """Of all steps, for an image of each."""
    stages = build_schedule(with_values(name, spend, of), NUM_SAMPLES).stages()
    return sum(stage.num_steps * FLOPS(stage.num_kept, stage.patch_size) for stage in stages)


def test_every_kind_of_schedule_has_a_form_that_can_be_fitted_and_every_family_a_way() -> None:
    assert all(FORMS[about.form] for about in KINDS.values())
    assert {name: len(ways(limits())) for name, ways in FAMILIES.items()} == {
        name: len(cases) for name, cases in WAYS.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_who_spends_more_computes_more_and_every_spending_is_a_schedule(name: str) -> None:
    spent = [operations(name, spend / 40, limits()) for spend in range(41)]
    assert spent == sorted(spent)
    assert len(set(spent)) > (1 if name.startswith("image_size_linear") else 20)


@pytest.mark.parametrize("name", [case for kind in KINDS for case in WAYS[kind]])
@pytest.mark.parametrize("lowest", [0.2, 39 / 197, 0.3, 0.99])
def test_no_rate_is_below_the_smallest_and_the_most_is_full_patches(name: str, lowest: float) -> None:
    for spend in (0.0, 0.3, 1.0):
        rates = with_values(name, spend, limits(lowest)).schedule.rates()
        assert lowest - 1e-4 <= min(rates) <= max(rates) <= 1
    assert operations(name, 1.0, limits(lowest)) == pytest.approx(3000 * FLOPS(49, 4), rel=1e-3)


def test_a_ramp_spends_least_from_the_smallest_rate_on() -> None:
    first, second, *_ = (way(0.0) for way in FAMILIES["linear"](limits()))
    assert first == {"schedule.kind": "linear", "schedule.keep_rate": [0.2, 1.0], "schedule.rounding": 0.2}
    assert second == {"schedule.kind": "linear", "schedule.keep_rate": [0.2, 0.84], "schedule.rounding": 0.16}


@pytest.mark.parametrize("family", ["image_size", "image_size_linear", "sizes_and_keep", "patch_size"])
def test_sizes_begin_small_or_coarse_and_end_as_the_datas(family: str) -> None:
    for name in WAYS[family]:
        schedule = build_schedule(with_values(name, 0.5, limits()), NUM_SAMPLES)
        first, last = schedule.stage(0), schedule.stage(2999)
        assert (first.image_size, first.patch_size) != (28, 4)
        if not family.endswith("linear") or name.endswith(" 0"):  # the others leave the end to a cooldown
            assert last == schedule.full_stage()


def test_two_sizes_share_the_run_with_at_most_two_thirds_for_the_mild_ones() -> None:
    mildest, *_, cheapest = (way(0.0)["schedule.image_size"]["values"] for way in FAMILIES["image_size"](limits()))
    assert mildest == [[0.0, 24], [0.66667, 28]]
    assert cheapest == [[0.0, 12], [0.9999, 28]]


def test_in_every_image_size_the_keep_rate_rises_anew_from_what_may_be_kept_there() -> None:
    config = with_values("sizes_and_keep 2", 0.0, limits())
    steps = build_schedule(config, NUM_SAMPLES)
    stages = [steps.stage(step) for step in range(0, 3000, 334)]
    assert [stage.image_size for stage in stages] == [16, 16, 16, 20, 20, 20, 28, 28, 28]
    assert [stage.num_kept for stage in stages] == [9, 13, 16, 9, 17, 25, 9, 29, 49]


def test_fewer_examples_leave_the_number_of_epochs_as_it_was_whatever_the_run_is_given_in() -> None:
    epochs, steps = (
        build_schedule(with_values("examples 0", 0.5, limits(0.2, f"train.duration={length}")), NUM_SAMPLES)
        for length in ("8epochs", "8000steps")
    )
    assert epochs.total_steps == steps.total_steps == 7 * 550 + 1000
    assert epochs.epochs.num_short == 7


def test_families_that_cannot_be_had_say_why() -> None:
    none = Limits(CONFIG, 1000, {28: 0.2}, [])
    for family in ("image_size", "image_size_linear", "sizes_and_keep"):
        with pytest.raises(
            ValueError, match="no image below 28 pixels, in patches of 4, takes as much as the cheapest"
        ):
            FAMILIES[family](none)
    for family in ("patch_size", "patch_size_choice"):
        with pytest.raises(ValueError, match="no patch above 4 pixels tiles an image of 28 and takes as much as the"):
            FAMILIES[family](none)
    with pytest.raises(ValueError, match=r"schedule\.examples is in the configuration already"):
        FAMILIES["examples"](limits(0.2, "schedule.examples={rule: random, keep: 0.5}"))
