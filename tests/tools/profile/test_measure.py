"""What is measured of the loader that ends before the selection, told by a bench that measures nothing."""

from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.config import DataConfig
from pipeline.graph.settings import GraphSettings
from pipeline.plan.schedule import Stage
from pipeline.selection.config import SelectionConfig
from tools.profile.loader import End
from tools.profile.measure import unselected_by_stage


class FakeBench:
    """Notes what it is asked to time; every loader takes as many seconds as its number among the ends."""

    def __init__(self, *, splices: bool, rule: str) -> None:
        data = DataConfig(train=Path(), val=Path(), num_classes=10, image_size=32, patch_size=8)
        self.splices = splices
        self.loader_settings = GraphSettings(data, SelectionConfig(rule=rule), "resized", 8, 1)
        self.timed: set[tuple[End, int]] = set()

    def time_loader_until(self, end: End, stage: Stage, num_steps: int) -> float:
        self.timed.add((end, stage.num_kept))
        return num_steps * (1.0 + get_args(End).index(end))


@pytest.mark.parametrize(
    ("splices", "rule", "ends", "kept"),
    [
        (True, "random", ["read", "splice", "decode"], [3, 16]),
        (True, "contrast", ["read", "splice", "decode"], [16]),
        (False, "random", ["splice", "decode"], [16]),
    ],
)
def test_what_comes_before_the_selection_is_measured_by_stage_where_it_depends_on_what_is_kept(
    splices: bool, rule: str, ends: list[End], kept: list[int]
) -> None:
    bench: Any = FakeBench(splices=splices, rule=rule)
    stages = [Stage(0.2, 3), Stage(1.0, 16)]
    found = unselected_by_stage(bench, stages, seconds=0.1)
    for one in found.values():
        one.measure()
    assert bench.timed == {(end, num_kept) for end in ends for num_kept in kept}
    read_ms = 1000.0 if splices else 2000.0
    assert [found[stage].ends_ms() for stage in stages] == [(read_ms, 2000.0, 3000.0, 3000.0)] * 2
