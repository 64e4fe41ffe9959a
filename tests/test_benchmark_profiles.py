"""How a profile is held against a real run."""

from typing import Any

import pytest

from benchmarks.profiles import compare


def lines(num_kept: int, *rates: float, steps: int = 5) -> list[dict[str, Any]]:
    common = {"event": "train", "keep_rate": num_kept / 10, "num_kept": num_kept, "interval_steps": steps}
    return [{**common, "step_s": 1.0, "loader_wait_s": 0.0, "bytes_per_image": 1, "images_per_s": one} for one in rates]


def profile(**rates: tuple[float, float]) -> dict[str, Any]:
    stages = []
    for name, (median, fastest) in rates.items():
        num_kept = int(name.removeprefix("kept"))
        speed = {"end_to_end_images_per_s": median, "end_to_end_images_per_s_range": [median / 2, fastest]}
        stages.append({"keep_rate": num_kept / 10, "num_kept": num_kept, **speed})
    return {"stages": stages}


def test_a_profile_agrees_with_a_run_where_the_fastest_of_no_stage_differ_by_more_than_a_tenth() -> None:
    measured = profile(kept2=(80.0, 105.0), kept4=(50.0, 57.0), kept10=(20.0, 20.0))  # the run never kept ten
    found = compare([measured], [lines(2, 50.0, 100.0, 99.0) + lines(4, 60.0)])
    assert [stage["undisturbed"] for stage in found["stages"]] == pytest.approx([0.05, -0.05])
    assert [stage["difference"]["median"] for stage in found["stages"]] == pytest.approx([80 / 99 - 1, 50 / 60 - 1])
    assert found["agrees"]
    assert not compare([measured], [lines(2, 90.0)])["agrees"]
    assert not compare([measured], [lines(2, 120.0)])["agrees"]


def test_a_turn_that_was_disturbed_does_not_decide() -> None:
    quiet, slow = profile(kept2=(99.0, 100.0)), profile(kept2=(40.0, 50.0))
    found = compare([slow, quiet, quiet], [lines(2, 98.0), lines(2, 50.0), lines(2, 101.0)])
    assert found["stages"][0]["run_images_per_s"]["values"] == [98.0, 50.0, 101.0]
    assert found["stages"][0]["difference"]["median"] == pytest.approx(99 / 101 - 1)
    assert found["stages"][0]["undisturbed"] == pytest.approx(100 / 101 - 1)
    assert found["agrees"]


def test_an_interval_that_a_stage_cut_short_is_not_a_runs_fastest() -> None:
    found = compare([profile(kept2=(99.0, 100.0))], [lines(2, 101.0) + lines(2, 150.0, steps=1)])
    assert found["stages"][0]["run_fastest_images_per_s"] == 101.0
