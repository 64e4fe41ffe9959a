"""What a run that is taken up again makes of a training set that has grown since its checkpoint."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shared.shard_files import write_shard
from benchmarks.shared.toy_data import write_toy_config
from engine.checkpoints.growth import before_growth, next_growth, over_grown_data
from engine.checkpoints.resume import check_same_run, identity
from engine.config import RunConfig, load_config
from engine.run_plan import plan_run
from pipeline.growth import Growth, GrowthConfig
from pipeline.shards.index import build_index, open_index
from pipeline.shards.levels import open_with_levels
from tools.shards.__main__ import main
from tools.shards.appending.append import append

KEY = "data.train.fingerprint"
BATCH = 16


def grown(*stretches: tuple[int, int, int]) -> Growth:
    return tuple(GrowthConfig(before_epoch=at, shards=num, samples=samples) for at, num, samples in stretches)


def write_more(folder: Path, first: int, num_samples: int) -> Path:
    """A tar of new samples, each of another size than all others."""
    labels = [number % 4 for number in range(num_samples)]
    return write_shard(folder / "new" / str(first) / "train-0.tar", labels, first=first)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A run over two shards of 24 samples, three steps an epoch."""
    for number in range(2):
        write_shard(tmp_path / f"shards/train-{number}.tar", [i % 4 for i in range(24)], first=24 * number)
    write_shard(tmp_path / "shards/val-0.tar", [0, 1, 2, 3])
    for split in ("train", "val"):
        build_index(tmp_path / "shards", split, (tmp_path / "shards").glob(f"{split}-*.tar"))
    return write_toy_config(tmp_path / "toy.yaml", tmp_path / "shards")


def manifest_at(step: int, config: RunConfig) -> dict[str, Any]:
    """As far as it is looked at, as JSON holds it."""
    index = open_with_levels(config.data.train, "train", config.data.levels)  # type: ignore[arg-type]
    return json.loads(json.dumps({"step": step, "identity": identity(config, index)}))


def growth_after(config: RunConfig, manifest: dict[str, Any], allowed: Sequence[str] = (KEY,)) -> Growth:
    return over_grown_data(config, manifest, allowed)[0].data.growth


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_the_larger_set_counts_from_the_first_epoch_that_has_not_begun(toy: Path, step: int, epoch: int) -> None:
    config = load_config(toy)
    manifest = manifest_at(step, config)
    append(toy.parent / "shards", [write_more(toy.parent, 100, 20)])
    there = grown((epoch, 2, 48))
    assert over_grown_data(config, manifest, [KEY]) == (
        load_config(toy, [f"data.growth={told(there)}"]),
        ("data.growth",),
    )


def told(growth: Growth) -> str:
    return json.dumps([one.model_dump() for one in growth])


def test_a_second_resume_takes_over_what_the_first_has_recorded(toy: Path) -> None:
    config = load_config(toy)
    first = manifest_at(4, config)
    append(toy.parent / "shards", [write_more(toy.parent, 100, 20)])
    going_on, allowed = over_grown_data(config, first, [KEY])
    recorded = manifest_at(9, going_on)
    assert check_same_run(toy, first["identity"], recorded["identity"], [KEY, *allowed])
    for flags in ((), (KEY,)):
        assert over_grown_data(config, recorded, flags) == (going_on, ())
        assert over_grown_data(going_on, recorded, flags) == (going_on, ())
    assert over_grown_data(config, {}, [KEY]) == (config, ())


def test_a_set_may_grow_again(toy: Path) -> None:
    config = load_config(toy)
    manifest = manifest_at(4, config)
    append(toy.parent / "shards", [write_more(toy.parent, 100, 20)])
    once = over_grown_data(config, manifest, [KEY])[0]
    manifests = {step: manifest_at(step, once) for step in (5, 7)}
    append(toy.parent / "shards", [write_more(toy.parent, 200, 9)])
    # Step 6 is the first of epoch 2, and from there an epoch has four steps.
    assert growth_after(once, manifests[5]) == grown((2, 2, 48))
    assert growth_after(once, manifests[7]) == growth_after(config, manifests[7]) == grown((2, 2, 48), (3, 3, 68))


def test_a_later_epoch_may_be_stated_and_an_earlier_one_is_refused(toy: Path) -> None:
    config = load_config(toy)
    manifest = manifest_at(4, config)
    append(toy.parent / "shards", [write_more(toy.parent, 100, 20)])

    def stating(*stretches: tuple[int, int, int]) -> RunConfig:
        return load_config(toy, [f"data.growth={told(grown(*stretches))}"])

    later = stating((3, 2, 48))
    assert over_grown_data(later, manifest, [KEY]) == (later, ("data.growth",))
    for wrong in (stating((1, 2, 48)), stating((3, 1, 24)), stating((1, 1, 24), (3, 2, 48))):
        with pytest.raises(ValueError, match="the checkpoint at step 4 has begun epochs over what was there"):
            over_grown_data(wrong, manifest, [KEY])


def test_without_the_flag_and_over_a_set_that_did_not_grow_nothing_is_made_of_it(toy: Path) -> None:
    config = load_config(toy)
    manifest = manifest_at(4, config)
    write_more(toy.parent, 100, 20).rename(toy.parent / "shards/train-2.tar")
    write_shard(toy.parent / "shards/train-0.tar", [3] * 24)
    build_index(toy.parent / "shards", "train", (toy.parent / "shards").glob("train-*.tar"))
    assert over_grown_data(config, manifest, [KEY]) == (config, ())
    assert over_grown_data(config, manifest, []) == (config, ())
    sources = load_config(toy, [f"data.train=[{{name: a, folder: {toy.parent}/shards, repeat: 1}}]"])
    assert over_grown_data(sources, manifest, [KEY]) == (sources, ())


def test_what_allows_of_no_growth_is_refused_in_words(toy: Path) -> None:
    examples = ["schedule.examples={rule: random, keep: 0.7}", "train.duration=16epochs"]
    for overrides, what in ((examples, "schedule.examples chooses among"), (["data.echo=2"], "echo 2 lets steps")):
        config = load_config(toy, overrides)
        manifest = manifest_at(4, config)
        append(toy.parent / "shards", [write_more(toy.parent, 100 + len(what), 20)])
        with pytest.raises(ValueError, match=f"the training set has grown since the checkpoint: .*{what}"):
            over_grown_data(config, manifest, [KEY])


def test_a_set_is_known_by_what_it_was_with_levels_and_samples_left_out(tmp_path: Path) -> None:
    for name, number in (("set", 0), ("new", 30)):
        labels = [i % 2 for i in range(6)]
        write_shard(tmp_path / name / "train-0.tar", labels, first=number)
        write_shard(tmp_path / name / "train-1.tar", labels[:3], first=number + 6)
        assert main(["index", str(tmp_path / name)]) == 0
        bad = tmp_path / "bad.jsonl"
        bad.write_text(json.dumps({"shard": "train-0.tar", "key": f"sample{number + 1:05d}", "cause": "dark"}) + "\n")
        assert main(["verify", str(tmp_path / name), "--workers=1", "--exclude", f"--bad-samples={bad}"]) == 0
        assert main(["resize-levels", str(tmp_path / name), "--levels=6", "--workers=1"]) == 0
    before = {levels: open_with_levels(tmp_path / "set", "train", levels).fingerprint for levels in ((), (6,))}
    append(tmp_path / "set", [tmp_path / "new"])
    for levels, fingerprint in before.items():
        index = open_with_levels(tmp_path / "set", "train", levels)
        assert before_growth(index, fingerprint) == (2, 8)
        assert before_growth(index, index.fingerprint) is None
        assert before_growth(index, "another") is None
    shutil.rmtree(tmp_path / "set/level-6")
    assert before_growth(open_index(tmp_path / "set", "train"), before[(6,)]) is None


def config_with(toy: Path, growth: Growth, *overrides: str) -> RunConfig:
    return load_config(toy, [f"data.growth={told(growth)}", *overrides])


def test_epochs_of_a_duration_have_the_length_that_they_had_or_have(toy: Path) -> None:
    growth = grown((2, 2, 48))  # two epochs of 3 steps, then of 5
    for duration, steps in {"2.5epochs": 9, "4epochs": 16, "20steps": 20, "320samples": 20}.items():
        assert plan_run(config_with(toy, growth, f"train.duration={duration}"), 80, 1).total_steps == steps
    plan = plan_run(
        config_with(toy, growth, "train.duration=4epochs", "optim.warmup=1epoch", "eval.every=1epoch"), 80, 1
    )
    assert (plan.warmup_steps, plan.steps_per_epoch, plan.eval_every) == (3, 5, 5)
    plan = plan_run(config_with(toy, growth, "train.duration=4epochs", "optim.warmup=3epochs"), 80, 1)
    assert plan.warmup_steps == 11


def test_a_run_that_ends_before_the_larger_set_counts_is_refused(toy: Path) -> None:
    config = config_with(toy, grown((2, 2, 48)), "train.duration=2epochs", "optim.warmup=0epochs")
    with pytest.raises(
        ValueError, match=r"it counts from step 6 on \(epoch 2, from 0\), and .* 2epochs ends at step 6"
    ):
        plan_run(config, 80, 1)


def test_cycles_are_as_long_as_their_epochs(toy: Path) -> None:
    growth = grown((2, 2, 48))
    cyclic = ("schedule={kind: cyclic, keep_rate: [0.2, 1.0], rounding: null}", "train.duration=4epochs")
    rates = [plan_run(config_with(toy, growth, *cyclic), 80, 1).schedule.stage(step).keep_rate for step in range(16)]
    of_3, of_5 = rates[:3], rates[6:11]
    assert rates == [*of_3, *of_3, *of_5, *of_5]
    assert len(set(rates)) > 3


def test_however_far_into_an_epoch_it_stopped_the_growth_is_the_same() -> None:
    assert {next_growth((), (2, 48), step, BATCH) for step in (4, 5, 6)} == {grown((2, 2, 48))}
