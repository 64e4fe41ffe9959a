import json
from pathlib import Path
from typing import Any

import pytest
from saved_profiles import write_profile

from engine.config import RunConfig, load_config
from engine.ranks.hardware import describe_hardware
from tools.profile.saved import read_profile

ROOT = Path(__file__).resolve().parents[3]


def configured(*overrides: str) -> RunConfig:
    return load_config(ROOT / "configs" / "fashion_mnist.yaml", list(overrides))


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_profile(tmp_path_factory.mktemp("p") / "p.json", configured(), (9, 49), step_s=lambda kept: kept / 100)


def changed(profile: Path, path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps({**json.loads(profile.read_text()), **fields}))
    return path


def test_times_are_seconds_of_a_step_repeat_by_repeat(profile: Path) -> None:
    first, last = read_profile(profile).stages
    assert (first.num_kept, last.num_kept) == (9, 49)
    assert first.step_s == first.both_s == pytest.approx((0.09, 0.09, 0.09))
    assert last.backward_s == pytest.approx(0.6 * 0.49)


def test_a_stage_has_its_sizes_and_one_of_an_earlier_version_those_of_data(profile: Path, tmp_path: Path) -> None:
    assert [(one.image_size, one.patch_size) for one in read_profile(profile).stages] == [(28, 4), (28, 4)]
    stages = [(25, 20, 4), (16, 28, 7), (49, 28, 4)]
    sized = write_profile(tmp_path / "p.json", configured(), stages, step_s=lambda *stage: 0.1)
    assert [(one.num_kept, one.image_size, one.patch_size) for one in read_profile(sized).stages] == stages


@pytest.mark.parametrize(
    "override",
    [
        "schedule.image_size={kind: constant, values: 20}",
        "schedule={kind: constant, keep_rate: 0.3}",
        *("seed=5", "train.duration=90epochs", "optim.lr=1.0", "eval.keep_rates=[0.5]", "name=another"),
    ],
)
def test_what_costs_a_step_nothing_may_differ(profile: Path, override: str) -> None:
    read_profile(profile).check_is_of(configured(override))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.options={embed_dim: 96, depth: 8, num_heads: 4}", "model.options.depth 4, and this run has 8"),
        ("train.global_batch_size=32", "train.global_batch_size 64, and this run has 32"),
        ("selection.rule=random", "selection.rule contrast, and this run has random"),
        ("engine.precision=bf16", "engine.precision fp32, and this run has bf16"),
        ("data.augment.flip_probability=0.5", "data.augment.flip_probability 0.0, and this run has 0.5"),
    ],
)
def test_what_costs_something_is_refused_by_name(profile: Path, override: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_profile(profile).check_is_of(configured(override))


def test_of_several_hosts_the_profile_is_of_one_with_its_share_of_the_batch(profile: Path) -> None:
    read_profile(profile).check_is_of(configured("train.global_batch_size=256"), hosts=4)
    with pytest.raises(ValueError, match="global_batch_size 64, and this run has 16 as one of 4 hosts' share: profile"):
        read_profile(profile).check_is_of(configured(), hosts=4)
    with pytest.raises(ValueError, match=r"train\.global_batch_size 64 cannot be shared by 3 hosts"):
        read_profile(profile).check_is_of(configured(), hosts=3)


def test_a_profile_of_several_hosts_is_none_of_one(profile: Path, tmp_path: Path) -> None:
    of_two = read_profile(changed(profile, tmp_path / "two.json", hosts=2, world_size=2))
    of_two.check_is_of(configured())
    with pytest.raises(ValueError, match="was measured on 2 hosts; from a profile of one of them"):
        of_two.check_is_of(configured("train.global_batch_size=128"), hosts=2)


def test_another_machine_is_named(profile: Path) -> None:
    here = describe_hardware()
    read_profile(profile).check_machine(here)
    with pytest.raises(ValueError, match=r"measured on another machine: its cpu is .*, here it is Another"):
        read_profile(profile).check_machine({**here, "cpu": "Another"})


def test_a_file_that_tells_no_times_is_refused(profile: Path, tmp_path: Path) -> None:
    path, stages = tmp_path / "other.json", json.loads(profile.read_text())["stages"]
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no profile; python -m"):
        read_profile(path)
    one_side = [{**stages[0], "loader_images_per_s": None}]
    with pytest.raises(ValueError, match="measured one side alone"):
        read_profile(changed(profile, path, stages=one_side))
    with pytest.raises(ValueError, match="from a configuration that is none here; profile again"):
        read_profile(changed(profile, path, config={"name": "x"}))
    without = json.loads(profile.read_text())
    del without["config"]
    path.write_text(json.dumps(without))
    with pytest.raises(ValueError, match="does not say what was profiled"):
        read_profile(path)
