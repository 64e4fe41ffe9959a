from dataclasses import fields, replace
from typing import Any

import augmenting
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_tables import samples
from timm.data import auto_augment

from pipeline.config import AugmentConfig, DataConfig
from pipeline.operations import IDENTITY, OPERATION_NAMES, OPERATIONS, levels_of
from pipeline.plan.augmentation import AugmentPlan, magnitude_of, order_positions
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import StepPlan, TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig

EVERYTHING = augmenting.EVERYTHING | {"repeats": 3}
NAMES = [field.name for field in fields(AugmentPlan)]


RAND = levels_of("randaugment")


def data_config(**augment: Any) -> DataConfig:
    settings = AugmentConfig(**augment)
    return DataConfig(train="a", val="a", num_classes=10, image_size=64, patch_size=16, augment=settings)


def planner_of(
    num_samples: int = 100, batch: int = 24, *, seed: int = 0, epochs: int = 3, **augment: Any
) -> TrainPlanner:
    per_epoch = num_samples // batch
    schedule = PatchSchedule(ScheduleConfig(), 16, epochs * per_epoch, per_epoch, batch, seed)
    return TrainPlanner(samples(num_samples), data_config(**augment), SelectionConfig(), schedule, batch, seed)


def arrays_of(plan: StepPlan) -> dict[str, np.ndarray]:
    """All arrays of the augmentation's plan that are there."""
    assert plan.augment is not None
    return {name: getattr(plan.augment, name) for name in NAMES if getattr(plan.augment, name) is not None}


def assert_same(got: StepPlan, want: StepPlan) -> None:
    assert arrays_of(got).keys() == arrays_of(want).keys()
    for name, array in arrays_of(got).items():
        assert array.dtype == arrays_of(want)[name].dtype, name
        np.testing.assert_array_equal(array, arrays_of(want)[name], err_msg=name)


# What is planned


@pytest.mark.parametrize(
    ("augment", "names"),
    [
        ({"auto": {"kind": "randaugment", "num_ops": 3}}, ["auto_ops", "auto_magnitudes", "auto_values"]),
        ({"auto": {"kind": "trivialaugment"}}, ["auto_ops", "auto_magnitudes", "auto_values"]),
        ({"color_jitter": 0.4}, ["jitter"]),
        ({"mixup": 0.8}, ["mix_labels", "mix_weights", "cut_boxes"]),
        ({"cutmix": 0.8}, ["mix_labels", "mix_weights", "cut_boxes"]),
        ({"erase_probability": 0.1}, ["erase_boxes", "erase_keys"]),
        ({"erase_probability": 0.1, "erase_mode": "mean"}, ["erase_boxes"]),
    ],
)
def test_what_is_on_is_planned_and_nothing_else(augment: dict, names: list[str]) -> None:
    assert list(arrays_of(planner_of(**augment).plan(0))) == names


@pytest.mark.parametrize("augment", [{}, {"mixup": 0.8, "mix_probability": 0.0}, {"repeats": 2}])
def test_where_nothing_is_on_nothing_is_planned(augment: dict) -> None:
    assert planner_of(**augment).plan(0).augment is None


def test_augmentation_changes_nothing_else_of_a_plan() -> None:
    plain, full = planner_of(), planner_of(**EVERYTHING | {"repeats": 1})
    for step in range(12):
        assert_fields_equal(replace(full.plan(step), augment=None), plain.plan(step))


def assert_fields_equal(got: StepPlan, want: StepPlan) -> None:
    for field in fields(StepPlan):
        np.testing.assert_array_equal(getattr(got, field.name), getattr(want, field.name), err_msg=field.name)


def test_plans_have_the_stated_types_and_shapes() -> None:
    plan = planner_of(**EVERYTHING, crop="pad").plan(3, 1, 2)
    described = {name: (array.dtype.name, array.shape) for name, array in arrays_of(plan).items()}
    assert described == {
        "auto_ops": ("int32", (12, 2)),
        "auto_magnitudes": ("float32", (12, 2)),
        "auto_values": ("float32", (12, 2)),
        "mix_labels": ("int64", (12,)),
        "mix_weights": ("float32", (12,)),
        "cut_boxes": ("int32", (12, 4)),
        "erase_boxes": ("int32", (12, 4)),
        "erase_keys": ("uint64", (12,)),
    }


def test_validation_is_never_augmented() -> None:
    planner = ValidationPlanner(samples(50), data_config(**EVERYTHING), SelectionConfig(), 1.0, 8, 0)
    assert planner.plan(0).augment is None
    assert planner.with_samples(planner.plan(0), np.arange(8)).augment is None


# What must not matter


@pytest.mark.parametrize(
    "augment", [EVERYTHING, {"color_jitter": 0.3, "cutmix": 0.5}, {"auto": {"kind": "trivialaugment"}, "repeats": 5}]
)
def test_a_rank_plans_the_rows_that_one_rank_alone_would_plan(augment: dict) -> None:
    for step in (0, 3, 11):
        whole = planner_of(**augment).plan(step)
        for world_size in (2, 3, 4, 6, 12):
            for rank in range(world_size):
                first = rank * 24 // world_size
                part = planner_of(**augment).plan(step, rank, world_size)
                rows = whole.rows(first, first + 24 // world_size)
                assert_fields_equal(replace(part, augment=None), replace(rows, augment=None))
                assert_same(part, rows)


def test_every_step_and_every_seed_has_its_own_choices() -> None:
    plans = [planner_of(seed=seed, **EVERYTHING).plan(step) for seed in (0, 1) for step in (0, 1, 4)]
    for name in arrays_of(plans[0]):
        assert len({arrays_of(plan)[name].tobytes() for plan in plans}) == len(plans), name


# Automatic augmentation


def test_randaugment_draws_every_operation_alike_with_magnitudes_around_its_own() -> None:
    auto = {"kind": "randaugment", "num_ops": 3, "magnitude": 7, "magnitude_std": 0.5, "probability": 1.0}
    planned = [planner_of(4000, 2000, auto=auto).plan(step) for step in range(6)]
    ops, magnitudes = (
        np.concatenate([arrays_of(plan)[name] for plan in planned]) for name in ("auto_ops", "auto_magnitudes")
    )
    names = list(levels_of("randaugment"))
    assert len(names) == 15
    counts = np.bincount(ops.reshape(-1), minlength=len(OPERATION_NAMES))
    drawn = counts[[OPERATION_NAMES.index(name) for name in names]]
    assert drawn.sum() == ops.size
    assert reference.chi_square(drawn, np.full(15, ops.size / 15)) < reference.chi_square_limit(14)
    assert np.abs(magnitudes).mean() == pytest.approx(7, abs=0.02)
    assert np.abs(magnitudes).std() == pytest.approx(0.5, abs=0.01)
    either_way = np.isin(ops, [OPERATION_NAMES.index(name) for name in names if RAND[name].goes_either_way])
    assert (magnitudes[~either_way] > 0).all()
    signs = magnitudes < 0
    assert signs[either_way].mean() == pytest.approx(0.5, abs=0.02)
    columns = np.concatenate([ops, np.abs(magnitudes), signs], axis=1)
    beside = np.abs(np.corrcoef(columns.T)[np.triu_indices(9, 1)])
    same_level = [(0, 6), (1, 7), (2, 8)]  # which operation it is says whether it goes either way
    apart = [pair not in same_level for pair in zip(*np.triu_indices(9, 1), strict=True)]
    assert beside[apart].max() < 4.5 / np.sqrt(len(columns))


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.8])
def test_each_operation_is_applied_with_its_chance(probability: float) -> None:
    auto = {"kind": "randaugment", "probability": probability}
    ops = arrays_of(planner_of(8000, 4000, auto=auto).plan(0))["auto_ops"]
    share = (ops != IDENTITY).mean()
    assert share == pytest.approx(probability, abs=4.5 * (probability * (1 - probability) / ops.size) ** 0.5)


@pytest.mark.parametrize(("magnitude", "end"), [(0, 0), (9, 10), (10, 10)])
def test_magnitudes_stay_within_0_and_10(magnitude: float, end: int) -> None:
    auto = {"kind": "randaugment", "magnitude": magnitude, "magnitude_std": 0.7}
    found = np.abs(arrays_of(planner_of(4000, 2000, auto=auto).plan(0))["auto_magnitudes"])
    assert 0 <= found.min() < found.max() <= 10
    assert end in found
    exact = {"kind": "randaugment", "magnitude": magnitude, "magnitude_std": 0}
    np.testing.assert_allclose(np.abs(arrays_of(planner_of(auto=exact).plan(0))["auto_magnitudes"]), magnitude)


@pytest.mark.parametrize(("kind", "num_ops"), [("trivialaugment", 14), ("threeaugment", 3)])
def test_the_other_suites_draw_one_operation_of_any_magnitude(kind: str, num_ops: int) -> None:
    arrays = arrays_of(planner_of(40_000, 20_000, auto={"kind": kind}).plan(0))
    assert arrays["auto_ops"].shape == (20_000, 1)
    places = [OPERATION_NAMES.index(name) for name in levels_of(kind)]
    assert len(places) == num_ops
    bins = np.round(np.abs(arrays["auto_magnitudes"]) * 3).astype(int)
    for counts in (np.bincount(arrays["auto_ops"][:, 0])[places], np.bincount(bins[:, 0])[1:30]):
        expected = np.full(len(counts), counts.sum() / len(counts))
        assert reference.chi_square(counts, expected) < reference.chi_square_limit(len(counts) - 1)


TIMM_LEVELS = {
    "rotate": auto_augment._rotate_level_to_arg,
    "shear_x": auto_augment._shear_level_to_arg,
    "translate_y": auto_augment._translate_rel_level_to_arg,
    "posterize": auto_augment._posterize_increasing_level_to_arg,
    "solarize": auto_augment._solarize_increasing_level_to_arg,
    "solarize_add": auto_augment._solarize_add_level_to_arg,
    "color": auto_augment._enhance_increasing_level_to_arg,
}


@pytest.mark.parametrize("name", TIMM_LEVELS)
def test_a_magnitude_is_worth_what_it_is_worth_in_timm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for negated in (False, True):
        monkeypatch.setattr(
            auto_augment, "_randomly_negate", lambda value, negated=negated: -value if negated else value
        )
        for magnitude in np.linspace(0, 10, 41):
            (want,) = TIMM_LEVELS[name](float(magnitude), {})
            share = magnitude / 10 * (-1 if negated and RAND[name].goes_either_way else 1)
            assert RAND[name].value(np.array([share]))[0] == pytest.approx(want), magnitude


def test_the_suite_is_timms_increasing_one_in_its_order() -> None:
    theirs = [OPERATIONS[name].timm for name in levels_of("randaugment")]
    assert theirs == auto_augment._RAND_INCREASING_TRANSFORMS


def test_without_increasing_the_values_are_timms_without_inc1() -> None:
    plain = levels_of("randaugment", increasing=False)
    assert list(plain) == list(levels_of("randaugment"))
    for magnitude in (0.0, 3.3, 9.0, 10.0):
        share = np.array([magnitude / 10])
        assert plain["posterize"].value(share) == auto_augment._posterize_level_to_arg(magnitude, {})[0]
        assert plain["solarize"].value(share) == auto_augment._solarize_level_to_arg(magnitude, {})[0]
        assert plain["color"].value(share) == pytest.approx(auto_augment._enhance_level_to_arg(magnitude, {})[0])
    assert not plain["color"].goes_either_way


def test_magnitudes_are_told_as_people_know_them() -> None:
    assert magnitude_of("rotate", 9.0) == pytest.approx(9)
    assert magnitude_of("rotate", -10.0) == -10
    assert magnitude_of("equalize", 5.0) is None


def test_jitter_factors_are_spread_evenly_around_1() -> None:
    factors = arrays_of(planner_of(20_000, 10_000, color_jitter=0.4).plan(0))["jitter"]
    assert factors.min() >= 0.6
    assert factors.max() <= 1.4
    for column in factors.T:
        counts = np.histogram(column, bins=8, range=(0.6, 1.4))[0]
        assert reference.chi_square(counts, np.full(8, 1250)) < reference.chi_square_limit(7)


# Mixing


def test_both_rows_of_a_pair_are_mixed_alike_and_see_each_others_label() -> None:
    for step in range(12):
        plan = planner_of(**EVERYTHING).plan(step)
        arrays = arrays_of(plan)
        for row in range(plan.num_rows):
            assert arrays["mix_labels"][row] == plan.labels[row ^ 1]
            assert arrays["mix_weights"][row] == arrays["mix_weights"][row ^ 1]
            assert arrays["cut_boxes"][row].tolist() == arrays["cut_boxes"][row ^ 1].tolist()
        if arrays["cut_boxes"].any():
            return
    raise AssertionError("no pair was mixed by cutmix")


def test_rows_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mix pairs of neighbours, but there are 3 rows a rank; choose .* is even"):
        planner_of(mixup=0.2).plan(0, 0, 8)
    assert planner_of(erase_probability=0.5).plan(0, 0, 8).num_rows == 3


def test_another_sample_shows_in_its_partners_label_and_nowhere_else() -> None:
    planner = planner_of(**EVERYTHING)
    plan = planner.plan(2, 1, 2)
    ids = plan.sample_ids.copy()
    ids[[3, 6, 7]] = [91, 92, 93]
    changed = planner.with_samples(plan, ids)
    want = arrays_of(plan)["mix_labels"].copy()
    want[[2, 7, 6]] = [91, 92, 93]
    assert arrays_of(changed)["mix_labels"].tolist() == want.tolist()
    for name in set(arrays_of(plan)) - {"mix_labels"}:
        np.testing.assert_array_equal(arrays_of(changed)[name], arrays_of(plan)[name])
    # A row that is looked at alone keeps what it knows of its partner.
    alone = planner.with_samples(plan.rows(3, 4), ids[3:4])
    assert arrays_of(alone)["mix_labels"].tolist() == [plan.labels[2]]
    assert_same(alone, changed.rows(3, 4))


# Repeats


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(8, 300),
    batch=st.integers(4, 40),
    repeats=st.integers(2, 7),
    shuffle_seed=st.integers(0, 5),
)
def test_each_sample_of_an_epochs_part_comes_as_often_as_asked_and_never_beside_itself(
    num_samples: int, batch: int, repeats: int, shuffle_seed: int
) -> None:
    if batch > num_samples or batch < 2 * repeats:
        return
    planner = planner_of(num_samples, batch, seed=shuffle_seed, epochs=2, repeats=repeats)
    steps = num_samples // batch
    assert planner.steps_per_epoch == steps
    once = planner_of(num_samples, batch, seed=shuffle_seed, epochs=2)
    for epoch in (0, 1):
        ids = [planner.plan(epoch * steps + step).sample_ids for step in range(steps)]
        order = np.concatenate([once.plan(epoch * steps + step).sample_ids for step in range(steps)])
        whole, rest = divmod(steps * batch, repeats)
        seen = dict(zip(*np.unique(np.concatenate(ids), return_counts=True), strict=True))
        expected = dict.fromkeys(order[:whole].tolist(), repeats)
        if rest:
            expected[int(order[whole])] = rest  # the epoch ends amid the repeats of its last sample
        assert seen == expected
        for rows in ids:
            counts = np.unique(rows, return_counts=True)[1]
            assert batch % repeats or (counts == repeats).all(), "all within one batch where the repeats divide it"
            assert (rows[:-1] != rows[1:]).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 50), st.integers(2, 60), st.integers(1, 9), st.data())
def test_any_rows_of_a_batch_know_their_places_by_themselves(
    step: int, batch: int, repeats: int, data: st.DataObject
) -> None:
    places = range(step * batch, (step + 1) * batch)
    copies = [[place // repeats for place in places if place % repeats == copy] for copy in range(repeats)]
    whole = [position for of_one_copy in copies for position in of_one_copy]
    first = data.draw(st.integers(0, batch))
    count = data.draw(st.integers(0, batch - first))
    rows = first + np.arange(count)
    assert order_positions(step, batch, repeats, rows).tolist() == whole[first : first + count]


def test_repeats_have_crops_of_their_own() -> None:
    plan = planner_of(repeats=3).plan(1)
    copies = [np.flatnonzero(plan.sample_ids == sample) for sample in np.unique(plan.sample_ids)]
    assert {len(rows) for rows in copies} == {3}
    assert all(len({plan.crops[row].tobytes() for row in rows}) == 3 for rows in copies)


def test_more_repeats_than_half_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.augment\.repeats 5 needs a global_batch_size of at least 10"):
        planner_of(100, 8, repeats=5)
