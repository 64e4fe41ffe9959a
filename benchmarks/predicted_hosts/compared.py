"""Predicted times and bytes of a step on two hosts beside the measured ones. Pure arithmetic."""

from collections.abc import Sequence
from typing import Any

from benchmarks.predicted_hosts.undisturbed import undisturbed_s, windows
from engine.config import RunConfig
from engine.metrics import train_wall_s
from engine.run_plan import build_schedule
from tools.profile.saved import SavedProfile
from tools.schedule.prediction import cost_of, predict

Lines = list[dict[str, Any]]


def compare(
    config: RunConfig,
    profile: SavedProfile,
    gbit_per_s: float,
    runs: Sequence[Lines],
    *,
    num_samples: int,
    hosts: int = 2,
) -> dict[str, Any]:
    """A run's steps on several hosts, stage by stage and in all, as predicted and as measured, in seconds.

    Args:
        profile: of one of the hosts, undisturbed.
        runs: the metrics of each time that the run was made.
    """
    schedule = build_schedule(config, num_samples)
    predicted = predict(config, schedule, cost_of(config, profile, hosts, gbit_per_s)).as_json()
    predicted_s, measured_s = predicted["predicted_s"], undisturbed_s(runs)
    stages = []
    for stage, told in zip(schedule.stages(), predicted["predicted_stages"], strict=True):
        run_s = _fastest_step_s(runs, stage.num_kept)
        stages.append(
            {
                "num_kept": stage.num_kept,
                "num_steps": stage.num_steps,
                "predicted_step_s": told["step_s"],
                "predicted_exchange_s": told["exchange_s"],
                "measured_step_s": run_s,
                "difference": told["step_s"] / run_s - 1,
            }
        )
    return {
        "link_gbit_per_s": gbit_per_s,
        "stages": stages,
        "predicted_s": predicted_s,
        "measured_s": measured_s,
        "difference": predicted_s / measured_s - 1,
        "measured_s_of_turns": [train_wall_s(lines) for lines in runs],
    }


def _fastest_step_s(runs: Sequence[Lines], num_kept: int) -> float:
    return min(one for lines in runs for one in windows((line for line in lines if line["event"] == "train"), num_kept))
