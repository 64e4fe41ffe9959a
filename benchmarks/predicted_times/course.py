"""One training run through many schedules: stretch by stretch, each of so many steps at one schedule's stages.

Every schedule is a list of stages, one a step, known before the run; so a run whose keep rate and sizes follow
``steps`` can go through all of them in turn. A size that none of them schedules is not scheduled in that run either:
where one is, the loader resizes every image, also those that have their size already. What a stretch takes is read from
the run's metrics, whose lines end where stages do, and at every ``log_every`` steps, of which a stretch has a whole
number.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

from benchmarks.shared.several_profiles import of_several
from benchmarks.shared.shell import ROOT
from benchmarks.toy_runs import settings
from engine.config import RunConfig, load_config
from pipeline.plan.schedule import PatchSchedule
from pipeline.plan.sizes import Axis
from tools.profile.saved import SavedProfile

CONFIG = "configs/fashion_mnist.yaml"
LOG_EVERY = 10
# Nothing but training steps until the end of the run.
_BARE = {"optim__warmup": "5steps", "eval__every": "null", "eval__keep_rates": [0.2], "checkpoint__every": "null"}

Schedule = dict[str, Any]  # keys of the section schedule


@dataclass(frozen=True)
class Stretch:
    """What a stretch of training steps took: wall and processor time, in seconds."""

    wall_s: float
    cpu_s: float


def _set(schedule: Schedule, steps: int) -> list[str]:
    keys = {"keep_rate": 1.0, "kind": "constant", **schedule}
    told = {f"schedule__{key}": json.dumps(value) for key, value in keys.items()}
    return settings(train__duration=f"{steps}steps", log_every=LOG_EVERY, **_BARE, **told)


def configured(schedule: Schedule, steps: int) -> RunConfig:
    """A run of so many steps under a schedule; all patches where it says nothing of the keep rate.

    Raises:
        ValueError: a line of metrics would straddle the end of the run.
    """
    if steps % LOG_EVERY:
        raise ValueError(f"a stretch has a multiple of {LOG_EVERY} steps, got {steps}")
    return load_config(ROOT / CONFIG, _set(schedule, steps)[1::2])


def laid_out(schedules: Sequence[PatchSchedule]) -> list[str]:
    """Arguments that make one run of all schedules, one after another, step by step."""
    stages = [one.stage(step) for one in schedules for step in range(one.total_steps)]
    begins = [0, *(step for step, (a, b) in enumerate(pairwise(stages), start=1) if a != b)]

    def pairs(name: str) -> list[list[float]]:
        return [[begin / len(stages), getattr(stages[begin], name)] for begin in begins]

    scheduled = [axis for axis in get_args(Axis) if any(axis in one.config.sizes for one in schedules)]
    sizes = {axis: {"kind": "steps", "values": pairs(axis)} for axis in scheduled}
    return _set({"kind": "steps", "keep_rate": pairs("keep_rate"), **sizes}, len(stages))


def stretches(lines: Sequence[dict[str, Any]], steps: int) -> list[Stretch]:
    """What each stretch of so many steps took, in their order. lines: the run's metrics."""
    train = [line for line in lines if line["event"] == "train"]
    found: list[Stretch] = []
    for line in train:
        first_step = line["step"] + 1 - line["interval_steps"]
        place = first_step // steps
        assert line["step"] // steps == place, line
        if place == len(found):
            found.append(Stretch(0.0, 0.0))
        wall_s, cpu_s = (line[name] * line["interval_steps"] for name in ("step_s", "cpu_s"))
        found[place] = Stretch(found[place].wall_s + wall_s, found[place].cpu_s + cpu_s)
    return found


def pooled(profiles: Sequence[SavedProfile]) -> SavedProfile:
    """One profile of several of the same run, with the repeats of all."""
    return of_several(profiles, tuple)
