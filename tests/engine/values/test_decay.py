import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.optim import learning_rate
from engine.values import decay
from engine.values.decay import DECAYS
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.sizes import SizeScheduleConfig


def schedule_of(total_steps: int, **values: object) -> PatchSchedule:
    config = ScheduleConfig.model_validate({"kind": "linear", "keep_rate": [0.2, 1.0], **values})
    return PatchSchedule(config, 49, total_steps, 10, 8, image_size=28, patch_size=4)


SMALL_THEN_LARGE = SizeScheduleConfig(kind="steps", values=[(0, 12), (0.5, 28)])


@given(
    total_steps=st.integers(2, 60),
    warmup=st.integers(0, 20),
    block=st.integers(1, 9),
    sizes=st.sampled_from([None, SMALL_THEN_LARGE]),
)
def test_by_tokens_a_step_stands_where_the_tokens_of_the_steps_before_it_end(
    total_steps: int, warmup: int, block: int, sizes: SizeScheduleConfig | None
) -> None:
    warmup = min(warmup, total_steps - 1)
    schedule = schedule_of(total_steps, image_size=sizes)
    tokens = [schedule.stage(step).num_kept + 1 for step in range(total_steps)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decay, "_BLOCK", block)
        progress = DECAYS["tokens"].progress(schedule, warmup)
        found = [progress(step) for step in range(warmup, total_steps)]
        again = [progress(step) for step in reversed(range(warmup, total_steps))]
    whole = sum(tokens[warmup:])
    assert found == again[::-1] == [sum(tokens[warmup:step]) / whole for step in range(warmup, total_steps)]


def test_by_steps_nothing_else_counts_and_it_is_the_rate_without_any() -> None:
    schedule = schedule_of(40, image_size=SMALL_THEN_LARGE)
    progress = DECAYS["steps"].progress(schedule, 7)
    for step in range(40):
        told = {"peak": 0.1, "total_steps": 40, "warmup_steps": 7}
        assert learning_rate(step, **told, progress=progress) == learning_rate(step, **told)  # type: ignore[arg-type]


def test_cheap_steps_leave_the_larger_part_of_the_decay_to_the_dear_ones() -> None:
    schedule = schedule_of(100, kind="constant", keep_rate=1.0, image_size=SMALL_THEN_LARGE)
    progress = DECAYS["tokens"].progress(schedule, 0)
    at_the_change = learning_rate(50, peak=1.0, total_steps=100, warmup_steps=0, progress=progress)
    assert at_the_change == pytest.approx((1 + math.cos(math.pi * 10 / 60)) / 2)  # 9 + 1 tokens, then 49 + 1
