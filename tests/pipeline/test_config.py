from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config import AugmentConfig, AutoAugmentConfig, DataConfig
from pipeline.plan.schedule import ScheduleConfig
from pipeline.selection.config import SelectionConfig
from pipeline.settings import Settings


def data_config(**settings: Any) -> DataConfig:
    return DataConfig(**{"train": "shards", "val": "shards", "num_classes": 10, **settings})


def message(error: pytest.ExceptionInfo[ValidationError]) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.value.errors())


# Data


def test_patches_of_an_image_are_counted() -> None:
    assert (data_config().grid_size, data_config().num_patches) == (14, 196)
    assert data_config(image_size=384).num_patches == 576
    assert data_config(image_size=28, patch_size=4).num_patches == 49


def test_a_patch_size_that_does_not_divide_the_image_comes_with_sizes_that_do() -> None:
    with pytest.raises(ValidationError) as error:
        data_config(image_size=224, patch_size=15)
    assert "patch_size 15 does not divide image_size 224; patch sizes near it that do: 8, 14, 16" in message(error)


def test_other_sizes_change_nothing_else() -> None:
    data = data_config(image_size=16, patch_size=4)
    assert data.at() is data
    larger = data.at(24, 8)
    assert (larger.image_size, larger.patch_size, larger.num_patches) == (24, 8, 9)
    assert larger.at(data.image_size, data.patch_size) == data


@pytest.mark.parametrize(
    ("image_size", "patch_size", "message"),
    [
        (18, None, "patch_size 4 does not divide image_size 18; patch sizes near it that do: 2, 3, 6"),
        (None, 3, "patch_size 3 does not divide image_size 16"),
        (0, None, "image_size: a size is a whole number of pixels from 1 to 1,000,000, got 0"),
        (None, -4, "patch_size: a size is a whole number of pixels from 1 to 1,000,000, got -4"),
    ],
)
def test_other_sizes_that_do_not_fit_are_refused(image_size: int | None, patch_size: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_config(image_size=16, patch_size=4).at(image_size, patch_size)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (DataConfig, {"train": "a", "val": "b", "num_classes": 2}),
        (AugmentConfig, {}),
        (AutoAugmentConfig, {"kind": "randaugment"}),
        (SelectionConfig, {}),
        (ScheduleConfig, {}),
    ],
)
def test_an_unknown_key_is_an_error_in_every_section(section: type[Settings], settings: dict[str, Any]) -> None:
    section(**settings)
    with pytest.raises(ValidationError) as error:
        section(**{**settings, "imagesize": 8})
    (fault,) = error.value.errors()
    assert fault["loc"] == ("imagesize",)
    assert fault["type"] == "extra_forbidden"


def test_settings_never_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        data_config().image_size = 32  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 0),
        ("patch_size", 0),
        ("num_classes", 1),
        ("num_train_samples", 0),
        ("val_crop_fraction", 0),
        ("val_crop_fraction", 1.01),
        ("window_shards", 0),
        ("prefetch_batches", 0),
        ("num_threads", 0),
        ("shuffle", "local"),
        ("device", "tpu"),
        ("mean", [0.5, 0.5]),
    ],
)
def test_a_value_out_of_range_is_named_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        data_config(**{key: value})
    assert {e["loc"][0] for e in error.value.errors()} == {key}


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"scale": (0.5, 0.1)}, "scale is [low, high] with 0 < low <= high, got [0.5, 0.1]"),
        ({"scale": (0.0, 1.0)}, "scale is [low, high] with 0 < low <= high, got [0.0, 1.0]"),
        ({"scale": (0.5, 1.5)}, "scale is a share of the image's area, at most 1, got 1.5"),
        ({"ratio": (0.0, 1.0)}, "ratio is [low, high] with 0 < low <= high, got [0.0, 1.0]"),
        ({"flip_probability": 1.5}, "flip_probability: Input should be less than or equal to 1"),
        ({"pad_pixels": -1}, "pad_pixels: Input should be greater than or equal to 0"),
        ({"mixup": -0.1}, "mixup: Input should be greater than or equal to 0"),
        ({"repeats": 0}, "repeats: Input should be greater than or equal to 1"),
        ({"erase_mode": "noise"}, "erase_mode: Input should be 'pixel' or 'mean'"),
        ({"color_jitter": 0.4, "auto": {"kind": "randaugment"}}, "set color_jitter to 0 or auto to null"),
        (
            {"auto": {"kind": "randaugment", "magnitude": 11}},
            "auto.magnitude: Input should be less than or equal to 10",
        ),
        ({"auto": {"kind": "trivialaugment", "magnitude": 5}}, "leave out num_ops, magnitude, magnitude_std"),
        (
            {"auto": {"kind": "randaugment", "magnitude": {"kind": "linear", "values": [0, 12]}}},
            "auto.magnitude: Input should be less than or equal to 10",
        ),
        (
            {"auto": {"kind": "randaugment", "magnitude": [0, 9]}},
            "auto.magnitude: Input should be a number, or a schedule such as {kind: linear, values: [0, 9]}",
        ),
        ({"mixup": True}, "mixup: Input should be a number, or a schedule"),
        (
            {"auto": {"kind": "threeaugment", "magnitude": {"kind": "linear", "values": [0, 9]}}},
            "leave out num_ops, magnitude",
        ),
        ({"mixup": {"kind": "spiral", "values": 1}}, "mixup.kind: Input should be 'constant', 'linear'"),
        ({"mixup": {"kind": "linear", "values": 1}}, "mixup: Value error, values for 'linear' is [low, high], such as"),
        ({"cutmix": {"kind": "linear", "values": [1, 0]}}, "cutmix: Value error, values for 'linear' is [low, high]"),
        ({"cutmix": {"kind": "steps", "values": [[0, -1]]}}, "cutmix: Input should be greater than or equal to 0"),
        (
            {"cutmix": {"kind": "linear", "values": [0, 1], "rounding": 0.3}},
            "cutmix: Value error, rounding: from 0 to 1 is no whole number of steps of 0.3",
        ),
        (
            {"auto": {"kind": "autoaugment"}},
            "auto.kind: Input should be 'randaugment', 'trivialaugment' or 'threeaugment'",
        ),
    ],
)
def test_an_impossible_augmentation_is_explained(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError) as error:
        AugmentConfig(**settings)
    assert part in message(error)


@pytest.mark.parametrize("kind", ["randaugment", "trivialaugment"])
def test_automatic_augmentation_survives_being_written_and_read(kind: str) -> None:
    augment = AugmentConfig(auto={"kind": kind})  # type: ignore[arg-type]
    assert AugmentConfig(**augment.model_dump(mode="json")) == augment


@pytest.mark.parametrize(
    ("settings", "mixes"),
    [
        *(({}, False), ({"mixup": 0.2}, True), ({"cutmix": 1.0}, True)),
        ({"mixup": 0.2, "mix_probability": 0.0}, False),
        ({"mixup": {"kind": "steps", "values": [[0, 0], [0.9, 0.1]]}}, True),
        ({"mixup": {"kind": "constant", "values": 0}}, False),
    ],
)
def test_images_are_mixed_where_mixup_or_cutmix_is_on(settings: dict[str, Any], mixes: bool) -> None:
    assert AugmentConfig(**settings).mixes == mixes


# Selection


@pytest.mark.parametrize("rule", ["random", "grid"])
def test_a_temperature_needs_a_rule_with_a_score(rule: str) -> None:
    with pytest.raises(ValidationError) as error:
        SelectionConfig(rule=rule, temperature=0.5)
    assert f"rule '{rule}' has no score that a temperature could soften; leave it at 0" in message(error)
    assert SelectionConfig(rule="contrast", temperature=0.5).temperature == 0.5


# Schedule


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "constant", "keep_rate": 0.6},
        {"kind": "linear", "keep_rate": [0.2, 1.0]},
        {"kind": "cosine", "keep_rate": [0.4, 0.8]},
        {"kind": "cyclic", "keep_rate": [0.2, 1.0], "cooldown": "5epochs"},
        {"kind": "linear", "keep_rate": [0.25, 1.0], "rounding": 0.25},
        {"kind": "linear", "keep_rate": [0.33, 0.97], "rounding": None},
        {"kind": "steps", "keep_rate": [[0, 0.3], [0.5, 0.77]]},
        {"kind": "choice", "keep_rate": [[0.2, 1], [1.0, 3]]},
    ],
)
def test_a_schedule_survives_being_written_and_read(settings: dict[str, Any]) -> None:
    config = ScheduleConfig(**settings)
    assert ScheduleConfig(**config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"keep_rate": 0}, "a keep rate lies in (0, 1], got 0 for schedule kind 'constant'"),
        ({"keep_rate": 1.2}, "a keep rate lies in (0, 1], got 1.2 for schedule kind 'constant'"),
        ({"keep_rate": float("nan")}, "Input should be a finite number"),
        ({"kind": "linear", "keep_rate": [-0.2, 1.0]}, "a keep rate lies in (0, 1], got -0.2"),
        ({"kind": "steps", "keep_rate": [[0, 0.2], [0.5, 2]]}, "a keep rate lies in (0, 1], got 2"),
        ({"kind": "choice", "keep_rate": [[0, 1]]}, "a keep rate lies in (0, 1], got 0"),
        ({"keep_rate": [0.2, 1.0]}, "keep_rate for 'constant' is one number, such as 0.6; got [0.2, 1.0]"),
        ({"kind": "linear", "keep_rate": 0.5}, "keep_rate for 'linear' is [low, high], such as [0.2, 1.0]; got 0.5"),
        ({"kind": "cyclic", "keep_rate": [0.2, 0.4, 1.0]}, "keep_rate for 'cyclic' is [low, high]"),
        ({"kind": "linear", "keep_rate": [1.0, 0.2]}, "keep_rate for 'linear' is [low, high], got [1, 0.2]"),
        ({"kind": "linear", "keep_rate": [0.3, 1.0]}, "keep rate 0.3 is not on the rounding grid of 0.2"),
        ({"kind": "cosine", "keep_rate": [0.2, 0.9]}, "or rounding: null"),
        ({"rounding": 0}, "rounding is a grid in (0, 1] or null, got 0"),
        ({"kind": "steps", "keep_rate": 0.5}, "keep_rate for 'steps' is [[fraction of the run, rate], ...]; got 0.5"),
        ({"kind": "steps", "keep_rate": []}, "keep_rate for 'steps' is [[fraction of the run, rate], ...]; got []"),
        ({"kind": "steps", "keep_rate": [[0.1, 0.5]]}, "whose fractions rise from 0 and stay below 1; got [0.1]"),
        ({"kind": "steps", "keep_rate": [[0, 0.5], [0, 1.0]]}, "rise from 0 and stay below 1; got [0.0, 0.0]"),
        ({"kind": "steps", "keep_rate": [[0, 0.5], [1, 1.0]]}, "rise from 0 and stay below 1; got [0.0, 1.0]"),
        ({"kind": "choice", "keep_rate": [0.2, 1.0]}, "keep_rate for 'choice' is [[rate, weight], ...]"),
        ({"kind": "choice", "keep_rate": [[0.2, 0]]}, "choice weights are finite, at least 0 and not all 0, got [0.0]"),
        ({"kind": "choice", "keep_rate": [[0.2, -1], [0.4, 2]]}, "at least 0 and not all 0, got [-1.0, 2.0]"),
        ({"kind": "choice", "keep_rate": [[0.2, float("nan")]]}, "Input should be a finite number"),
        ({"cooldown": "5"}, "cooldown: Value error, a duration is a number with a unit"),
    ],
)
def test_an_impossible_schedule_is_explained(settings: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError) as error:
        ScheduleConfig(**settings)
    assert part in message(error)
