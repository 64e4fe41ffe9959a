import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from saved_profiles import write_profile

from engine.config import RunConfig, load_config
from engine.run_plan import build_schedule
from tools.fit.__main__ import main
from tools.fit.families import FAMILIES
from tools.fit.limits import limits_of, shortest_rate
from tools.fit.proposals import CLOSE, Fitted, fit
from tools.profile.saved import read_profile
from tools.schedule.prediction import Cost, cost_of, predict

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "configs" / "fashion_mnist.yaml"
NUM_SAMPLES = 60_000


def configured(*overrides: str) -> RunConfig:
    return load_config(CONFIG, list(overrides))


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "p.json"
    return write_profile(path, configured(), (9, 19, 29, 39, 49), step_s=lambda kept: 1e-3 * (8 + kept))


@pytest.fixture(scope="module")
def cost(profile: Path) -> Cost:
    return cost_of(configured(), read_profile(profile))


def fitted(cost: Cost, budget: float, *overrides: str) -> Fitted:
    return fit(configured(*overrides), cost, NUM_SAMPLES, budget)


@pytest.mark.parametrize("budget", [0.5, 0.7, 0.93])
def test_every_kind_takes_the_budget_or_up_to_a_hundredth_less(cost: Cost, budget: float) -> None:
    found = fitted(cost, budget)
    assert {proposal.kind for proposal in found.proposals} == set(FAMILIES)
    assert found.unfit == {}
    full_s = build_schedule(configured(), NUM_SAMPLES).total_steps * cost.full_step_s
    for proposal in found.proposals:
        assert (1 - CLOSE) * budget <= proposal.share <= budget
        # The share is that of the schedule as anybody predicts it.
        schedule = build_schedule(proposal.config, NUM_SAMPLES)
        assert predict(proposal.config, schedule, cost).predicted_s / full_s == pytest.approx(proposal.share)


def test_those_that_look_at_most_come_first(cost: Cost) -> None:
    shares = [proposal.token_share for proposal in fitted(cost, 0.6).proposals]
    assert shares == sorted(shares, reverse=True)


def test_the_arguments_make_the_same_schedule_of_the_configuration(cost: Cost) -> None:
    for proposal in fitted(cost, 0.5).proposals:
        words = shlex.split(proposal.settings)
        assert words[::2] == ["--set"] * (len(words) // 2)
        assert configured(*words[1::2]) == proposal.config


def test_ramps_end_at_full_patches_where_the_budget_allows_it(cost: Cost) -> None:
    def highest(budget: float) -> float:
        (linear,) = [one for one in fitted(cost, budget).proposals if one.kind == "linear"]
        return max(linear.config.schedule.rates())

    assert highest(0.8) == 1.0
    assert highest(0.5) < 1.0


def test_one_rate_alone_is_too_coarse_and_full_patches_in_the_end_take_the_rest(cost: Cost) -> None:
    (constant,) = [one for one in fitted(cost, 0.517).proposals if one.kind == "constant"]
    assert constant.values.keys() == {"schedule.kind", "schedule.keep_rate", "schedule.cooldown"}
    assert constant.share == pytest.approx(0.517, rel=1e-3)


def test_a_cooldown_of_the_configuration_stays(cost: Cost) -> None:
    for proposal in fitted(cost, 0.6, "schedule.cooldown=300steps").proposals:
        schedule = build_schedule(proposal.config, NUM_SAMPLES)
        assert schedule.total_steps - schedule.ramp_steps >= 300


def test_kinds_that_do_not_fit_are_told_with_what_they_take_at_least(cost: Cost) -> None:
    found = fitted(cost, 0.4)
    assert {"constant", "steps", "choice", "image_size"} <= {one.kind for one in found.proposals}
    assert {"linear", "cosine", "cyclic", "examples"} <= found.unfit.keys()
    assert "with no step cheaper than the cheapest that was measured, it takes 4" in found.unfit["linear"]


def test_a_rule_of_one_size_leaves_out_the_kinds_with_others_and_says_so(tmp_path: Path) -> None:
    config = configured("selection.rule=magnitude", "train.duration=9epochs")
    path = write_profile(tmp_path / "p.json", config, (9, 29, 49), step_s=lambda kept: 1e-3 * (8 + kept))
    found = fit(config, cost_of(config, read_profile(path)), NUM_SAMPLES, 0.5)
    sized = {kind for kind in FAMILIES if "size" in kind}
    assert found.unfit.keys() == sized
    assert all("selection.rule magnitude scores patches of one size" in why for why in found.unfit.values())


def test_a_profile_of_image_sizes_alone_allows_keep_rates_whose_steps_are_no_cheaper(tmp_path: Path) -> None:
    sizes = [(25, 20, 4), (36, 24, 4), (49, 28, 4)]
    path = write_profile(tmp_path / "p.json", configured(), sizes, step_s=lambda kept, *of: 1e-3 * (8 + kept))
    cost = cost_of(configured(), read_profile(path))
    limits = limits_of(configured(), cost, 938)
    assert limits.lowest_rates == {20: 1.0, 24: 0.7, 28: 0.52}
    assert limits.coarse_patches == []
    found = fit(configured(), cost, NUM_SAMPLES, 0.75)
    assert found.unfit.keys() == {"patch_size", "patch_size_choice"}
    assert all(not proposal.prediction.beyond for proposal in found.proposals)


def test_a_configuration_with_a_schedule_of_sizes_lends_it_to_the_keep_rates_alone(cost: Cost) -> None:
    sizes = "schedule.image_size={kind: steps, values: [[0, 24], [0.2, 28]]}"
    proposals = {one.kind: one for one in fitted(cost, 0.6, sizes).proposals}
    assert proposals["steps"].config.schedule.image_size == configured(sizes).schedule.image_size
    assert proposals["patch_size"].config.schedule.image_size is None
    assert "--set schedule.image_size=null" in proposals["patch_size"].settings


def test_a_warmup_that_is_longer_than_a_fitted_run_leaves_its_kind_out(cost: Cost) -> None:
    short = ("train.duration=2800steps", "optim.warmup=2000steps", "schedule.cooldown=0steps")
    found = fitted(cost, 0.5, *short)
    assert "optim.warmup of 2000 steps does not fit a run of" in found.unfit["examples"]


@pytest.mark.parametrize(("kept", "patches", "rate"), [(9, 49, 0.2), (38, 196, 0.2), (39, 49, 0.8), (49, 49, 1.0)])
def test_a_rate_is_told_with_as_few_digits_as_keep_so_many_patches(kept: int, patches: int, rate: float) -> None:
    assert shortest_rate(kept, patches) == rate


def test_a_run_too_short_to_be_divided_is_told(cost: Cost) -> None:
    short = ("train.duration=3steps", "optim.warmup=0steps", "schedule.cooldown=0steps")
    found = fitted(cost, 0.5, *short)
    assert any("the run is too short to be divided so" in why for why in found.unfit.values())


def test_a_budget_that_nothing_fits_is_refused(cost: Cost) -> None:
    with pytest.raises(
        ValueError, match=r"no schedule fits --budget 0\.05: constant: with no step cheaper .* raise the"
    ):
        fitted(cost, 0.05)


def test_pretraining_has_no_full_patches_to_share(cost: Cost) -> None:
    config = configured()
    pretraining = config.model_copy(update={"task": "pretrain"})
    with pytest.raises(ValueError, match="cannot be trained under task pretrain"):
        fit(pretraining, replace(cost), NUM_SAMPLES, 0.5)


def test_configurations_are_written_ready_to_run_and_none_is_overwritten(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(CONFIG), "--profile", str(profile), "--budget", "0.5", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert told.startswith("50.0% of full patches' ")
    written = sorted(path.stem for path in (tmp_path / "out").glob("*.yaml"))
    assert written == sorted(f"fashion_mnist_{kind}" for kind in FAMILIES)
    for name in written:
        config = load_config(tmp_path / "out" / f"{name}.yaml")
        assert config.name == name
        assert config.model_copy(update={"name": "", "schedule": None}) == configured().model_copy(
            update={"name": "", "schedule": None}
        )
    assert main(arguments) == 2
    assert "File exists" in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["0", "1.5", "nan"])
def test_a_budget_is_a_share(profile: Path, capsys: pytest.CaptureFixture[str], budget: str) -> None:
    assert main(["--config", str(CONFIG), "--profile", str(profile), "--budget", budget]) == 2
    assert "--budget is a share of the time at full patches, above 0 and at most 1" in capsys.readouterr().err
