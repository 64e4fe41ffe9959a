from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_profiles import write_profile

from engine.config import RunConfig, load_config
from engine.run_plan import build_schedule
from tools.profile.saved import read_profile
from tools.schedule.prediction import Cost, Prediction, cost_of, num_parameters, predict
from tools.schedule.told import describe_prediction

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "configs" / "fashion_mnist.yaml"  # 49 patches
MEASURED = (9, 19, 29, 39, 49)


def configured(*overrides: str) -> RunConfig:
    return load_config(CONFIG, ["train.duration=100steps", "optim.warmup=0steps", *overrides])


def steps_at(keep_rates: str) -> RunConfig:
    return configured("schedule.kind=steps", f"schedule.keep_rate={keep_rates}")


def quadratic(kept: int) -> float:
    """Near the model's own ratio of what goes with the tokens' square to what goes with the tokens."""
    return 1e-3 * (5 + (kept + 1) + 5e-4 * (kept + 1) ** 2)


def cost(tmp_path: Path, config: RunConfig, nums_kept: tuple[int, ...] = MEASURED, **times: Any) -> Cost:
    profile = write_profile(tmp_path / "p.json", configured(), nums_kept, **{"step_s": quadratic, **times})
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
    assert found.step_s[14] == pytest.approx(0.04)
    assert [found.limit(kept) for kept in (14, 49)] == ["loader", "step"]


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
    assert found.beyond == [4]
    assert "measured were 9 to 49 patches; of 1 stage(s) outside of that, from 4 patches on" in describe_prediction(
        found
    )


def test_one_number_of_patches_tells_nothing_of_others(tmp_path: Path) -> None:
    found = cost(tmp_path, configured(), nums_kept=(49,))
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


def test_bytes_stay_as_patches_go_so_that_the_exchange_comes_to_the_front(tmp_path: Path) -> None:
    config, found = of_a_host(tmp_path, 0, link=1.0)
    seconds = num_parameters(config) * 4 / (1e9 / 8)
    np.testing.assert_allclose(found.exchange_s[1:], seconds)
    assert found.step_s[9] == pytest.approx(quadratic(9) + seconds)
    assert found.step_s[49] == pytest.approx(quadratic(49) + seconds)
    assert found.step_s[9] / found.step_s[49] > quadratic(9) / quadratic(49)
    slow = of_a_host(tmp_path, 0, link=0.1)[1]
    assert slow.limit(9) == "exchange"


def test_a_loader_that_is_behind_works_on_while_hosts_exchange(tmp_path: Path) -> None:
    slow = of_a_host(tmp_path, 0, link=1.0, loader_s=lambda kept: 10.0)[1]
    assert slow.step_s[9] == pytest.approx(10.0)


def test_what_ranks_of_one_host_exchanged_is_not_counted_twice(tmp_path: Path) -> None:
    alone, with_own = (of_a_host(tmp_path, 0, link=1.0, exchange_s=one)[1] for one in (0.0, 0.002))
    np.testing.assert_allclose(alone.exchange_s[1:] - with_own.exchange_s[1:], 0.002)


def test_on_processors_zero_1_hides_neither_gradients_nor_weights(tmp_path: Path) -> None:
    config, found = of_a_host(tmp_path, 1, link=1.0)
    turn_s = num_parameters(config) * 4 / 2 / (1e9 / 8)
    np.testing.assert_allclose(found.exchange_s[1:], 3 * turn_s)


def test_the_text_names_the_time_the_machine_and_the_error(tmp_path: Path) -> None:
    config = configured("schedule.kind=constant", "schedule.keep_rate=0.5")
    told = describe_prediction(predicted(config, cost(tmp_path, config)))
    assert told.startswith("predicted: ")
    assert "of full patches'" in told
    assert "1 rank(s); without evaluation, checkpoints and the start" in told
    assert "each is told by the others within" in told
