"""How a profile is held against a real run."""

import pytest

from benchmarks.profiles import compare


def lines(num_kept: int, *rates: float) -> list[dict]:
    common = {"event": "train", "keep_rate": num_kept / 10, "num_kept": num_kept, "interval_steps": 5}
    return [{**common, "step_s": 1.0, "loader_wait_s": 0.0, "bytes_per_image": 1, "images_per_s": one} for one in rates]


def test_a_profile_agrees_with_a_run_where_no_stage_differs_by_more_than_a_tenth() -> None:
    stages = [
        {"keep_rate": num_kept / 10, "num_kept": num_kept, "end_to_end_images_per_s": rate}
        for num_kept, rate in ((2, 105.0), (4, 57.0), (10, 20.0))  # the run has no stage of ten patches
    ]
    found = compare([{"stages": stages}], [lines(2, 50.0, 100.0, 101.0) + lines(4, 60.0)])
    assert [stage["difference"]["median"] for stage in found["stages"]] == pytest.approx([0.05, -0.05])
    assert found["agrees"]
    assert not compare([{"stages": stages}], [lines(2, 90.0)])["agrees"]


def test_a_turn_that_was_disturbed_does_not_decide() -> None:
    stages = [{"keep_rate": 0.2, "num_kept": 2, "end_to_end_images_per_s": 100.0}]
    found = compare([{"stages": stages}] * 3, [lines(2, 99.0), lines(2, 50.0), lines(2, 101.0)])
    assert found["stages"][0]["run_images_per_s"]["values"] == [99.0, 50.0, 101.0]
    assert found["stages"][0]["difference"]["median"] == pytest.approx(1 / 99)
    assert found["agrees"]
