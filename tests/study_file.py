"""A made-up study, as the file of its results would tell it."""

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.study.result import StudyResult, VariantResult

KEEP_RATES = ("1.0", "0.4")


def variant(name: str, schedule: str, rule: str, ratio: float, top1: list[float], low: float) -> dict[str, Any]:
    """A variant with one run for each of ``top1``, seeds from 0 on; ``low`` is its top-1 at keep rate 0.4."""
    runs = [
        {
            "seed": seed,
            "top1": {"1.0": value, "0.4": low},
            "train_wall_s": 100 * ratio,
            "train_cpu_s": 99 * ratio,
            "stages": [{"keep_rate": 1.0, "images_per_s": 300.0 + seed, "loader_wait_share": 0.01}],
            "curve": [
                {
                    "step": step,
                    "train_wall_s": step * ratio,
                    "train_cpu_s": step * ratio,
                    "top1": {"1.0": value * step / 100},
                }
                for step in (50, 100)
            ],
            "loss": [
                {"step": i, "loss": 2 / (1 + i / 10), "train_wall_s": i * ratio, "train_cpu_s": i}
                for i in range(0, 100, 10)
            ],
            "weights_digest": "ab",
            "hardware": {"cpu": "A processor <&> more", "cores": 2, "gpus": []},
            "versions": {"torch": "2.14.1"},
        }
        for seed, value in enumerate(top1)
    ]
    row = VariantResult(
        name=name,
        description=f"patches by {rule}",
        overrides={"schedule.kind": schedule},
        rule=rule,
        schedule=schedule,
        mean_keep_rate=0.6 if ratio < 1 else 1.0,
        steps=100,
        num_runs=len(runs),
        top1_mean={"1.0": statistics.mean(top1), "0.4": low},
        top1_stdev={"1.0": statistics.stdev(top1) if len(top1) > 1 else None, "0.4": 0.0},
        wall_s_mean=100 * ratio,
        cpu_s_mean=99 * ratio,
        time_ratio=ratio,
        time_ratio_stdev=0.01 if len(top1) > 1 else None,
        num_timed=len(runs),
        runs=runs,
    )
    return asdict(row)


def study() -> dict[str, Any]:
    """Three variants: linear-contrast is as good as full and faster, cyclic-random faster and worse."""
    values = StudyResult(
        name="a <b>study</b>",
        seeds=[0, 1, 2],
        reference="full",
        clock="cpu",
        complete=False,
        missing=["cosine-grid seed 0"],
        hardware={"cpu": "A processor <&> more", "cores": 2, "gpus": []},
    ).as_json()
    values["variants"] = [
        variant("full", "constant", "contrast", 1.0, [0.88, 0.881, 0.882], 0.48),
        variant("linear-contrast", "linear", "contrast", 0.66, [0.879, 0.882, 0.8815], 0.84),
        variant("cyclic-random", "cyclic", "random", 0.6, [0.85, 0.85, 0.851], 0.75),
        {"name": "cosine-grid", "runs": []},
    ]
    again = variant("full@linear-contrast", "constant", "contrast", 0.67, [0.87, 0.871, 0.872], 0.4)
    values["equal_time"] = [{**again, "reference": "linear-contrast"}]
    return values


def write_study(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(values))
    return folder
