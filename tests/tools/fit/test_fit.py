import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from saved_profiles import write_profile

from engine.config import RunConfig, load_config
from engine.run_plan import build_schedule
from pipeline.ramps import KINDS
from tools.fit.__main__ import main
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
    return fit(configured(*overrides), cost, 0.2, NUM_SAMPLES, budget)


@pytest.mark.parametrize("budget", [0.5, 0.7, 0.93])
def test_every_kind_takes_the_budget_or_up_to_a_hundredth_less(cost: Cost, budget: float) -> None:
    found = fitted(cost, budget)
    assert {proposal.kind for proposal in found.proposals} == set(KINDS)
    assert found.unfit == {}
    for proposal in found.proposals:
        assert (1 - CLOSE) * budget <= proposal.share <= budget
        # The share is that of the schedule as anybody predicts it.
        schedule = build_schedule(proposal.config, NUM_SAMPLES)
        assert predict(proposal.config, schedule, cost).share_of_full == proposal.share


def test_those_that_look_at_most_come_first(cost: Cost) -> None:
    shares = [proposal.token_share for proposal in fitted(cost, 0.6).proposals]
    assert shares == sorted(shares, reverse=True)


def test_the_arguments_make_the_same_schedule_of_the_configuration(cost: Cost) -> None:
    for proposal in fitted(cost, 0.5).proposals:
        words = shlex.split(proposal.settings)
        assert words[::2] == ["--set"] * (len(words) // 2)
        assert configured(*words[1::2]).schedule == proposal.config.schedule


def test_ramps_end_at_full_patches_where_the_budget_allows_it(cost: Cost) -> None:
    def highest(budget: float) -> float:
        (linear,) = [one for one in fitted(cost, budget).proposals if one.kind == "linear"]
        return max(linear.config.schedule.rates())

    assert highest(0.8) == 1.0
    assert highest(0.5) < 1.0


def test_one_rate_alone_is_too_coarse_and_full_patches_in_the_end_take_the_rest(cost: Cost) -> None:
    (constant,) = [one for one in fitted(cost, 0.517).proposals if one.kind == "constant"]
    assert constant.values.keys() == {"kind", "keep_rate", "cooldown"}
    assert constant.share == pytest.approx(0.517, rel=1e-3)


def test_a_cooldown_of_the_configuration_stays(cost: Cost) -> None:
    for proposal in fitted(cost, 0.6, "schedule.cooldown=300steps").proposals:
        schedule = build_schedule(proposal.config, NUM_SAMPLES)
        assert schedule.total_steps - schedule.ramp_steps >= 300


def test_kinds_that_do_not_fit_are_told_with_what_they_take_at_least(cost: Cost) -> None:
    found = fitted(cost, 0.4)
    assert {proposal.kind for proposal in found.proposals} == {"constant", "steps", "choice"}
    assert found.unfit.keys() == {"linear", "cosine", "cyclic"}
    assert "with keep rate 0.2, the smallest that was measured, it takes 4" in found.unfit["linear"]


def test_a_run_too_short_to_be_divided_is_told(cost: Cost) -> None:
    short = ("train.duration=3steps", "optim.warmup=0steps", "schedule.cooldown=0steps")
    found = fitted(cost, 0.5, *short)
    assert any("the run is too short to be divided so" in why for why in found.unfit.values())


def test_a_budget_that_nothing_fits_is_refused(cost: Cost) -> None:
    with pytest.raises(
        ValueError, match=r"no schedule fits --budget 0\.1: constant: with keep rate 0\.2, .* raise the"
    ):
        fitted(cost, 0.1)


def test_pretraining_has_no_full_patches_to_share(cost: Cost) -> None:
    config = configured()
    pretraining = config.model_copy(update={"task": "pretrain"})
    with pytest.raises(ValueError, match="cannot be trained under task pretrain"):
        fit(pretraining, replace(cost), 0.2, NUM_SAMPLES, 0.5)


def test_configurations_are_written_ready_to_run_and_none_is_overwritten(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(CONFIG), "--profile", str(profile), "--budget", "0.5", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert told.startswith("50.0% of full patches' ")
    written = sorted(path.stem for path in (tmp_path / "out").glob("*.yaml"))
    assert written == sorted(f"fashion_mnist_{kind}" for kind in KINDS)
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
