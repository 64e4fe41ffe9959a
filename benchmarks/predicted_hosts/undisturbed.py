"""What runs and profiles say of a machine that other work slows down now and then.

What else a machine does can only slow a window of steps down, so that the fastest of many windows is the machine's own
speed. Of a profile that is the fastest repeat of each stage, of a run the fastest window of its steps in each stage.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tools.profile.saved import SavedProfile, SavedStage

WINDOW_STEPS = 10  # about as long as a repeat of the profile


def fastest_profile(profiles: Sequence[SavedProfile]) -> SavedProfile:
    """One profile of several of the same run: of each stage the fastest repeat of all, each side by itself."""
    stages = [_fastest_stage(together) for together in zip(*(one.stages for one in profiles), strict=True)]
    return replace(profiles[0], stages=stages)


def _fastest_stage(measured: Sequence[SavedStage]) -> SavedStage:
    return replace(
        measured[0],
        loader_s=(min(min(one.loader_s) for one in measured),),
        step_s=(min(min(one.step_s) for one in measured),),
        both_s=(min(min(one.both_s) for one in measured),),
    )


def undisturbed_s(turns: Sequence[Sequence[dict[str, Any]]]) -> float:
    """Seconds of a run's training steps, if each took as long as in the fastest window of its stage.

    Args:
        turns: the lines of metrics of each time that the run was made.
    """
    steps: dict[int, int] = defaultdict(int)
    for line in _train_lines(turns[0]):
        steps[line["num_kept"]] += line["interval_steps"]
    return sum(
        num_steps * min(one for lines in turns for one in windows(_train_lines(lines), num_kept))
        for num_kept, num_steps in steps.items()
    )


def windows(lines: Iterable[dict[str, Any]], num_kept: int) -> list[float]:
    """Seconds of a step in each window of at least ``WINDOW_STEPS`` steps of a stage, in order; what is left is out.

    Intervals that lie apart, as those of a random choice, are put together. Fewer steps are one window.
    """
    found, taken_s, steps = [], 0.0, 0
    for line in lines:
        if line["num_kept"] != num_kept:
            continue
        taken_s, steps = taken_s + line["step_s"] * line["interval_steps"], steps + line["interval_steps"]
        if steps >= WINDOW_STEPS:
            found.append(taken_s / steps)
            taken_s, steps = 0.0, 0
    return found or [taken_s / steps]


def _train_lines(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == "train"]
