"""A loader whose strengths follow schedules gives at each step what one of these numbers throughout gives there."""

from pathlib import Path
from typing import Any

import pytest
from loaded import content
from pixels import train_planner

from benchmarks.shared.bad_images import write_photo_shards
from benchmarks.shared.photographs import jpeg_bytes
from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import ScheduleConfig
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex
from pipeline.train_plans import TrainPlans

pytestmark = pytest.mark.timeout(120)  # a loader that hangs is a failure

BATCH, NUM_STEPS = 8, 8
# Steps 0 to 3 without mixing, 4 to 7 with all of it.
WEAK, STRONG = {"magnitude": 2, "mixup": 0, "cutmix": 0}, {"magnitude": 8, "mixup": 0.8, "cutmix": 1.0}
GROWING = {name: {"kind": "steps", "values": [[0, WEAK[name]], [0.5, STRONG[name]]]} for name in WEAK}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "selected first": ("random", {}),
    "resampled first": ("contrast", {"route": "resample_first"}),
    "echo": ("random", {"echo": 2, "echo_gap": 3}),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    images = {number: jpeg_bytes(number, 80, 60) for number in range(32)}
    return write_photo_shards(tmp_path_factory.mktemp("strengths"), images)


def batches_of(index: ShardIndex, case: str, strengths: dict[str, Any]) -> list[Batch]:
    rule, settings = CASES[case]
    auto = {"kind": "randaugment", "magnitude": strengths["magnitude"]}
    alphas = {name: strengths[name] for name in ("mixup", "cutmix")}
    augment = AugmentConfig.model_validate({"auto": auto, "erase_probability": 0.5, **alphas})
    data = DataConfig(
        train=Path(), val=Path(), num_classes=100, image_size=48, patch_size=8, augment=augment, **settings
    )
    selection, rates = SelectionConfig(rule=rule), ScheduleConfig(kind="cyclic", keep_rate=[0.4, 1.0])
    planner = train_planner(
        index, data, selection=selection, schedule=rates, global_batch_size=BATCH, total_steps=NUM_STEPS
    )
    plans = TrainPlans(planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=BATCH // 2)
    with PatchLoader(planner, plans, batch_size=BATCH // 2, num_threads=1) as loader:
        return list(loader)


@pytest.mark.parametrize("case", CASES)
def test_each_step_is_that_of_a_run_of_its_numbers_throughout(index: ShardIndex, case: str) -> None:
    growing = batches_of(index, case, GROWING)
    weak, strong = (batches_of(index, case, strengths) for strengths in (WEAK, STRONG))
    expected = content([batch for batch in weak if batch.plan.step < 4]) + content(
        [batch for batch in strong if batch.plan.step >= 4]
    )
    assert content(growing) == expected
    assert content(growing) != content(strong)
    for batch in growing:
        assert batch.mix_weights is not None
        assert batch.mix_labels is not None
        if batch.plan.step < 4:
            assert (batch.mix_weights == 1).all()
