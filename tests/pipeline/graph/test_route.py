from pathlib import Path
from typing import Any

import pytest

from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.route import check_route, route_of, why_not_select_first
from pipeline.selection.config import SelectionConfig


def data_of(route: str = "auto", device: str = "cpu", **augment: Any) -> DataConfig:
    folder = Path("data")
    return DataConfig(
        train=folder, val=folder, num_classes=5, route=route, device=device, augment=AugmentConfig(**augment)
    )


@pytest.mark.parametrize("rule", ["random", "grid", "contrast"])
@pytest.mark.parametrize(
    "augment",
    [
        *({}, {"mixup": 0.8}, {"cutmix": 1.0}, {"flip_probability": 0.0}, {"repeats": 3}),
        *({"auto": {"kind": "trivialaugment"}}, {"color_jitter": 0.4}, {"erase_probability": 0.2}),
    ],
)
def test_crops_flips_and_mixing_are_selected_first(rule: str, augment: dict) -> None:
    assert route_of(data_of(**augment), SelectionConfig(rule=rule)) == "select_first"
    assert route_of(data_of(route="resample_first", **augment), SelectionConfig(rule=rule)) == "resample_first"


@pytest.mark.parametrize(
    ("data", "selection", "named"),
    [
        ({"device": "gpu"}, {}, "data.device is gpu"),
        ({}, {"rule": "magnitude"}, "magnitude"),
        ({"crop": "pad"}, {}, "pad"),
    ],
)
def test_what_needs_whole_images_is_resampled_first_and_named(data: dict, selection: dict, named: str) -> None:
    rule = SelectionConfig(**selection)
    assert route_of(data_of(**data), rule) == "resample_first"
    assert named in str(why_not_select_first(data_of(**data), rule))
    with pytest.raises(ValueError, match=r"select_first, but .*set data\.route to auto or resample_first"):
        check_route(data_of(route="select_first", **data), rule)
    for route in ("auto", "resample_first"):
        check_route(data_of(route=route, **data), rule)
