"""A run that goes on over a training set to which shards were appended, beside one that knew of it from the start."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from launching import run_jobs
from run_results import lines, summary

from benchmarks.shared.shard_files import image_bytes, write_tar
from benchmarks.shared.toy_data import NUM_TRAIN, write_toy_config, write_toy_shards
from engine.checkpoints.manifest import verify_manifest
from engine.config import load_config
from tools.inspect.inspection import inspect_step
from tools.shards.appending.append import append

NUM_MORE, STEPS = 56, 36
OLD_EPOCH, EPOCH = NUM_TRAIN // 16, (NUM_TRAIN + NUM_MORE) // 16
GROWTH = [{"before_epoch": 1, "shards": 3, "samples": NUM_TRAIN}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, which every test below looks at."""
    folder = tmp_path_factory.mktemp("growth")
    write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "before"))
    shutil.copytree(folder / "before", folder / "after")
    more = [(f"{number}.png", image_bytes(number, 16, 16)) for number in range(NUM_MORE)]
    members = [member for one in more for member in (one, (f"{one[0][:-4]}.cls", b"3"))]
    append(folder / "after", [write_tar(folder / "new" / "train-0.tar", members)])

    def job(out: str, place: str, *more: str) -> dict[str, object]:
        flags = ("--set", f"data.train={folder / place}", "--set", f"train.duration={STEPS}steps", *more)
        return {
            "argv": ["--config", str(folder / "toy.yaml"), "--out", str(folder / out), *flags],
            "seen": str(folder / f"{out}.seen"),
        }

    allowed = ("--allow-change", "data.train.fingerprint")
    jobs = [
        job("grown", "before", "--max-steps", "5"),
        job("grown", "after"),
        job("grown", "after", *allowed, "--max-steps", "8"),
        job("grown", "after", "--max-steps", "14"),
        job("grown", "after", *allowed),
        job("whole", "after", "--set", f"data.growth={json.dumps(GROWTH)}"),
    ]
    codes, printed = run_jobs(2, jobs, folder / "jobs")
    assert codes == [0, 2, 0, 0, 0, 0], printed
    (folder / "printed").write_text(printed)
    return folder


def seen(folder: Path, out: str) -> list[list[int]]:
    """Step, row of the global batch and sample id, of all ranks and all starts of the run."""
    return sorted(json.loads(line) for file in folder.glob(f"{out}.seen.*") for line in file.read_text().splitlines())


def test_it_sees_and_becomes_what_a_run_does_that_knew_of_it_from_the_start(folder: Path) -> None:
    assert seen(folder, "grown") == seen(folder, "whole")
    assert summary(folder, "grown")["weights_digest"] == summary(folder, "whole")["weights_digest"]


def test_the_epoch_that_had_begun_ends_over_the_old_samples_and_the_next_one_sees_all(folder: Path) -> None:
    of_epoch: dict[int, Counter[int]] = {0: Counter(), 1: Counter()}
    epochs = {line["step"]: line["epoch"] for line in lines(folder, "grown", "train")}
    assert [epochs[step] for step in range(STEPS)] == [0] * OLD_EPOCH + [1] * EPOCH + [2] * (STEPS - OLD_EPOCH - EPOCH)
    for step, _, sample in seen(folder, "grown"):
        if step < OLD_EPOCH + EPOCH:
            of_epoch[epochs[step]][sample] += 1
    assert len(of_epoch[0]) == OLD_EPOCH * 16
    assert max(of_epoch[0]) < NUM_TRAIN
    assert of_epoch[1] == Counter(range(NUM_TRAIN + NUM_MORE))


def test_it_is_refused_without_the_flag_and_told_and_recorded_with_it(folder: Path) -> None:
    printed = (folder / "printed").read_text()
    assert "--allow-change data.train.fingerprint to go on with the new value" in printed
    assert f"as allowed: data.growth: '(not recorded)' there, {GROWTH} here" in printed
    assert f"see the first 3 shards ({NUM_TRAIN} samples) before epoch 1, all from then on" in printed
    assert yaml.safe_load((folder / "grown/config.yaml").read_text())["data"]["growth"] == GROWTH
    identity = verify_manifest(folder / "grown/checkpoints" / f"step-{STEPS:08d}")["identity"]
    assert identity["data.growth"] == GROWTH


def test_tools_show_the_steps_of_the_run_by_its_configuration(folder: Path) -> None:
    config = load_config(folder / "grown/config.yaml")
    for step in (OLD_EPOCH - 1, OLD_EPOCH):
        expected = [sample for at, _, sample in seen(folder, "whole") if at == step]
        assert inspect_step(config, step).plan.sample_ids.tolist() == expected
