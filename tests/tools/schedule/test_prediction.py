from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_profiles import write_profile

from engine.config import RunConfig, load_config
from engine.run_plan import build_schedule
from tools.profile.saved import read_profile
from tools.schedule.pace import Shape
from tools.schedule.prediction import Cost, Prediction, StepCost, cost_of, num_parameters, predict
from tools.schedule.preview import flops_counter
from tools.schedule.told import describe_prediction

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "configs" / "fashion_mnist.yaml"  # 49 patches
MEASURED = (9, 19, 29, 39, 49)
FULL = Shape(49, 28, 4)


def configured(*overrides: str) -> RunConfig:
    return load_config(CONFIG, ["train.duration=100steps", "optim.warmup=0steps", *overrides])


def steps_at(keep_rates: str) -> RunConfig:
    return configured("schedule.kind=steps", f"schedule.keep_rate={keep_rates}")


def quadratic(kept: int) -> float:
    """Near the model's own ratio of what goes with the tokens' square to what goes with the tokens."""
    return 1e-3 * (5 + (kept + 1) + 5e-4 * (kept + 1) ** 2)


def cost(tmp_path: Path, config: RunConfig, stages: tuple[Any, ...] = MEASURED, **times: Any) -> Cost:
    profile = write_profile(tmp_path / "p.json", configured(), stages, **{"step_s": quadratic, **times})
    return cost_of(config, read_profile(profile))


def predicted(config: RunConfig, found: Cost) -> Prediction:
    return predict(config, build_schedule(config, 60_000), found)


def test_a_schedule_takes_the_sum_of_its_steps_whether_they_were_measured_or_not(tmp_path: Path) -> None:
    config = steps_at("[[0, 0.2], [0.25, 0.5], [0.75, 1.0]]")
    found = predicted(config, cost(tmp_path, config))
    expected = 25 * quadratic(9) + 50 * quadratic(24) + 25 * quadratic(49)
    assert found.predicted_s == pytest.approx(expected, rel=1e-3)
    assert found.full_s == pytest.approx(100 * quadratic(49))
    assert found.share_of_full == pytest.approx(expected / (100 * quadratic(49)), rel=1e-3)


def test_where_the_loader_limits_fewer_patches_save_nothing(tmp_path: Path) -> None:
    config = steps_at("[[0, 0.3], [0.5, 1.0]]")
    found = cost(tmp_path, config, loader_s=lambda kept: 0.04)
    steps = found.at([FULL._replace(num_kept=14), FULL])
    assert steps.step_s[0] == pytest.approx(0.04)
    assert [steps.limit(place) for place in (0, 1)] == ["loader", "step"]


def test_a_range_of_measured_stages_is_that_of_the_repeats(tmp_path: Path) -> None:
    steady = predicted(configured(), cost(tmp_path, configured()))
    assert steady.low_s == pytest.approx(steady.predicted_s) == steady.high_s
    noisy = predicted(configured(), cost(tmp_path, configured(), noise=(0.9, 1.0, 1.1)))
    assert noisy.low_s < 0.9 * noisy.predicted_s < 1.1 * noisy.predicted_s < noisy.high_s  # Student's t of three
    two = predicted(configured(), cost(tmp_path, configured(), noise=(0.9, 1.1)))
    assert (two.low_s, two.high_s) == pytest.approx((0.9 * two.predicted_s, 1.1 * two.predicted_s), rel=0.03)


def test_time_between_measured_stages_is_told_within_the_error_of_the_measured_ones(tmp_path: Path) -> None:
    def bent(kept: int) -> float:
        return 1e-3 * (kept + 1) ** 1.7

    between, at = (configured("schedule.kind=constant", f"schedule.keep_rate={rate}") for rate in (0.7, 0.6))
    found = cost(tmp_path, between, step_s=bent)
    told = predicted(between, found)
    assert told.low_s < 100 * bent(34) < told.high_s
    assert found.error is not None
    assert told.high_s == pytest.approx(told.predicted_s * (1 + found.error))
    assert predicted(at, found).high_s == pytest.approx(predicted(at, found).predicted_s)


def test_patches_outside_of_what_was_measured_are_named(tmp_path: Path) -> None:
    config = steps_at("[[0, 0.1], [0.5, 0.6]]")
    found = predicted(config, cost(tmp_path, config))
    assert found.beyond == [FULL._replace(num_kept=4)]
    assert "measured were 9 to 49 patches; of 1 stage(s) outside of that, from 4 patches on" in describe_prediction(
        found
    )


def test_one_number_of_patches_tells_nothing_of_others(tmp_path: Path) -> None:
    found = cost(tmp_path, configured(), stages=(49,))
    full = configured("schedule.kind=constant", "schedule.keep_rate=1.0")
    assert predicted(full, found).predicted_s == pytest.approx(100 * quadratic(49))
    with pytest.raises(ValueError, match="measured 49 patches alone, which says nothing of 9; profile a schedule of"):
        predicted(configured(), found)


def of_a_host(tmp_path: Path, zero: int, link: float, **times: Any) -> tuple[RunConfig, Cost]:
    """Two hosts, each with the profiled batch."""
    zeroed = f"engine.zero_stage={zero}"
    profile = write_profile(tmp_path / "p.json", configured(zeroed), MEASURED, **{"step_s": quadratic, **times})
    config = configured(zeroed, "train.global_batch_size=128")
    return config, cost_of(config, read_profile(profile), hosts=2, link_gbit_per_s=link)


def at(found: Cost, *nums_kept: int) -> StepCost:
    return found.at([FULL._replace(num_kept=kept) for kept in nums_kept])


def test_bytes_stay_as_patches_go_so_that_the_exchange_comes_to_the_front(tmp_path: Path) -> None:
    config, found = of_a_host(tmp_path, 0, link=1.0)
    seconds, steps = num_parameters(config) * 4 / (1e9 / 8), at(found, 9, 20, 49)
    np.testing.assert_allclose(steps.exchange_s, seconds)
    assert steps.step_s[0] == pytest.approx(quadratic(9) + seconds)
    assert steps.step_s[2] == pytest.approx(quadratic(49) + seconds)
    assert steps.step_s[0] / steps.step_s[2] > quadratic(9) / quadratic(49)
    slow = of_a_host(tmp_path, 0, link=0.1)[1]
    assert at(slow, 9).limit(0) == "exchange"


def test_a_loader_that_is_behind_works_on_while_hosts_exchange(tmp_path: Path) -> None:
    slow = of_a_host(tmp_path, 0, link=1.0, loader_s=lambda kept: 10.0)[1]
    assert at(slow, 9).step_s[0] == pytest.approx(10.0)


def test_what_ranks_of_one_host_exchanged_is_not_counted_twice(tmp_path: Path) -> None:
    alone, with_own = (at(of_a_host(tmp_path, 0, link=1.0, exchange_s=one)[1], *MEASURED) for one in (0.0, 0.002))
    np.testing.assert_allclose(alone.exchange_s - with_own.exchange_s, 0.002)


def test_on_processors_zero_1_hides_neither_gradients_nor_weights(tmp_path: Path) -> None:
    config, found = of_a_host(tmp_path, 1, link=1.0)
    turn_s = num_parameters(config) * 4 / 2 / (1e9 / 8)
    np.testing.assert_allclose(at(found, *MEASURED).exchange_s, 3 * turn_s)


def test_the_text_names_the_time_the_machine_and_the_error(tmp_path: Path) -> None:
    config = configured("schedule.kind=constant", "schedule.keep_rate=0.5")
    told = describe_prediction(predicted(config, cost(tmp_path, config)))
    assert told.startswith("predicted: ")
    assert "of full patches'" in told
    assert "1 rank(s); without evaluation, checkpoints and the start" in told
    assert "each is told by the others within" in told


SIZED = (*((kept, 20, 4) for kept in (5, 15, 25)), (4, 28, 14), (16, 28, 7), *((kept, 28, 4) for kept in (9, 29, 49)))
SIZES = {
    "images": ("schedule.image_size={kind: steps, values: [[0, 20], [0.5, 28]]}",),
    "patches": ("schedule.patch_size={kind: choice, values: [[7, 1], [4, 1], [14, 1]]}",),
    "both": (
        "schedule.kind=steps",
        "schedule.keep_rate=[[0, 0.6], [0.5, 1.0]]",
        "schedule.image_size={kind: steps, values: [[0, 20], [0.5, 28]]}",
    ),
}


def sized(*overrides: str) -> RunConfig:
    return configured("schedule.kind=constant", "schedule.keep_rate=1.0", *overrides)


def of_sizes(kept: int, image_size: int, patch_size: int) -> float:
    """A step that no rule tells: each stage has a time of its own."""
    return 1e-3 * (kept + image_size / patch_size + (7 * kept + image_size + 5 * patch_size) % 11)


@pytest.mark.parametrize("name", SIZES)
def test_where_all_stages_were_measured_a_schedule_takes_their_medians(tmp_path: Path, name: str) -> None:
    config = sized(*SIZES[name])
    found = predicted(config, cost(tmp_path, config, SIZED, step_s=of_sizes, noise=(0.9, 1.3, 1.0)))
    expected = sum(
        stage.num_steps * of_sizes(stage.num_kept, stage.image_size or 0, stage.patch_size or 0)
        for stage in found.schedule.stages()
    )
    assert found.predicted_s == pytest.approx(expected)
    assert found.full_s == pytest.approx(100 * of_sizes(*FULL))
    assert found.beyond == []
    assert [stage["measured"] for stage in found.as_json()["predicted_stages"]] == [True] * len(found.shapes)


def test_sizes_that_nobody_profiled_are_told_by_the_operations_of_their_steps(tmp_path: Path) -> None:
    config = sized(*SIZES["images"])
    flops = flops_counter(config)
    found = predicted(config, cost(tmp_path, config, step_s=lambda kept: 1e-9 * flops(kept, 4)))
    assert found.predicted_s == pytest.approx(1e-9 * 50 * (flops(25, 4) + flops(49, 4)), rel=1e-3)
    stage, _ = found.as_json()["predicted_stages"]
    assert (stage["num_kept"], stage["image_size"], stage["patch_size"], stage["measured"]) == (25, 20, 4, False)
    told = describe_prediction(found)
    assert "the loader was measured at images of 28 pixels alone: at 20 it is taken to need as long for as many" in told
    assert [line.split()[:3] for line in told.splitlines()[4:6]] == [["25", "20", "4"], ["49", "28", "4"]]


def test_a_stage_with_a_larger_image_than_any_measured_one_is_named(tmp_path: Path) -> None:
    config = sized("schedule.image_size={kind: steps, values: [[0, 32], [0.5, 28]]}")
    found = predicted(config, cost(tmp_path, config, SIZED, step_s=of_sizes))
    assert found.beyond == [Shape(64, 32, 4)]
    assert "of 4 px in 28 px patches; of 1 stage(s) outside of that, from 64 of 4 px in 32 px" in describe_prediction(
        found
    )


def test_epochs_that_leave_examples_out_have_fewer_steps_that_cost_the_same(tmp_path: Path) -> None:
    long = ("train.duration=8epochs", "schedule.kind=constant", "schedule.keep_rate=1.0")
    all_of_them, fewer = (configured(*long, *one) for one in ((), ("schedule.examples={rule: random, keep: 0.5}",)))
    found = cost(tmp_path, fewer)
    steps = build_schedule(fewer, 60_000).total_steps
    assert steps < 0.6 * build_schedule(all_of_them, 60_000).total_steps
    assert predicted(fewer, found).predicted_s == pytest.approx(steps * quadratic(49))
    assert predicted(fewer, found).share_of_full == pytest.approx(1)


def test_fewer_patches_that_took_longer_are_named_among_those_of_the_same_sizes_alone(tmp_path: Path) -> None:
    times = {(9, 28, 4): 0.03, (29, 28, 4): 0.02, (49, 28, 4): 0.04, (25, 20, 4): 0.09}
    config = configured()
    found = cost(tmp_path, config, tuple(times), step_s=lambda *stage: times[stage])
    assert found.falling == [9]
