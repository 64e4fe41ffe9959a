"""Whole runs over shards with images that cannot be decoded."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from launching import deepspeed, run_jobs
from PIL import Image

from benchmarks.shared.bad_images import overwrite
from benchmarks.shared.toy_data import IMAGE_SIZE, NUM_TRAIN, NUM_VAL, write_toy_config, write_toy_shards
from engine.bad_data import DataError, read_batches
from engine.config import load_config
from engine.run_plan import plan_run
from pipeline.batch import Batch
from pipeline.loader import PatchLoader
from pipeline.plan.step import TrainPlanner
from pipeline.shards.index import StaleIndexError, build_index, open_index
from pipeline.shards.units import UnreadableUnitsError

BAD_TRAIN, BAD_VAL = (5, 77, 150), (7,)
SKIP = ["--set", "data.on_bad_sample=skip", "--set", "data.max_bad_share=0.03"]


def gif() -> bytes:
    """An image that an index takes and the decoder does not."""
    sink = io.BytesIO()
    Image.fromarray(np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)).save(sink, "GIF")
    return sink.getvalue()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    shards = write_toy_shards(folder / "shards")
    for split, bad in (("train", BAD_TRAIN), ("val", BAD_VAL)):
        index = open_index(shards, split)
        for sample_id in bad:
            overwrite(index, sample_id, gif())
        build_index(shards, split, shards.glob(f"{split}-*.tar"))
    write_toy_config(folder / "toy.yaml", shards)
    return folder


def arguments(toy: Path, out: str, *more: str) -> list[str]:
    return ["--config", str(toy / "toy.yaml"), "--out", str(toy / out), *more]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def planned_rows(toy: Path) -> list[tuple[int, int]]:
    """(step, sample) of every row of the run that is bad, by the plan alone."""
    config = load_config(toy / "toy.yaml")
    index = open_index(toy / "shards", "train")
    plan = plan_run(config, index.num_samples, 2)
    planner = TrainPlanner(index, config.data, config.selection, plan.schedule, 16, config.seed)
    return [(step, int(i)) for step in range(24) for i in planner.plan(step).sample_ids if i in BAD_TRAIN]


@pytest.fixture(scope="module")
def two_ranks(toy: Path) -> tuple[dict[str, int], str]:
    # The run is stopped after a step in which a bad sample was met and before another.
    jobs = {
        "whole": arguments(toy, "whole", *SKIP),
        "stopped": arguments(toy, "resumed", *SKIP, "--max-steps", "13"),
        "resumed": arguments(toy, "resumed", *SKIP),
        "too many": arguments(toy, "too_many", *SKIP, "--set", "data.max_bad_share=0.012"),
        "too many in validation": arguments(toy, "too_many_val", *SKIP, "--set", "data.max_bad_share=0.015"),
    }
    codes, printed = run_jobs(2, list(jobs.values()), toy / "two_ranks")
    return dict(zip(jobs, codes, strict=True)), printed


def test_a_run_that_skips_counts_every_replaced_row(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    assert two_ranks[0]["whole"] == 0
    trained = [line for line in lines(toy / "whole" / "metrics.jsonl") if line["event"] == "train"]
    met = [step for step, _ in planned_rows(toy)]
    assert [line["bad_samples"] for line in trained] == [met.count(step) for step in range(24)]
    assert 0 < sum(line["bad_samples"] for line in trained) == len(met)


def test_each_bad_sample_is_named_once_with_its_substitute(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    index = open_index(toy / "shards", "train")
    first_met = {sample_id: step for step, sample_id in reversed(planned_rows(toy))}
    written = lines(toy / "whole" / "bad_samples.jsonl")
    trained = [line for line in written if line["event"] == "train"]
    assert {(line["step"], line["shard"], line["key"], line["offset"]) for line in trained} == {
        (step, index.shards[index.shard[i]].name, index.key(i), int(index.offset[i])) for i, step in first_met.items()
    }
    assert len(trained) == len(first_met)
    assert all("GIF" in line["cause"] and line["substitute_key"] for line in written if line["event"] == "train")
    [validated] = [line for line in written if line["event"] == "eval"]
    assert (validated["step"], validated["substitute_key"]) == (24, None)


def test_validation_says_how_many_samples_it_could_not_count(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    evals = [line for line in lines(toy / "whole" / "metrics.jsonl") if line["event"] == "eval"]
    assert [(line["num_samples"], line["bad_samples"]) for line in evals] == [(NUM_VAL - 1, 1)] * 2


def test_a_resumed_run_meets_the_same_bad_samples_and_ends_bit_identical(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    assert two_ranks[0]["stopped"] == two_ranks[0]["resumed"] == 0
    whole, resumed = (json.loads((toy / out / "summary.json").read_text()) for out in ("whole", "resumed"))
    assert resumed["weights_digest"] == whole["weights_digest"]
    written = [lines(toy / out / "bad_samples.jsonl") for out in ("whole", "resumed")]
    assert [line for line in written[1] if line["event"] == "train"] == [
        line for line in written[0] if line["event"] == "train"
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("too many", f"3 of the {NUM_TRAIN} samples"),
        ("too many in validation", f"1 of the {NUM_VAL} samples"),
    ],
)
def test_a_run_with_too_many_bad_samples_ends_on_all_ranks_with_one_line(
    two_ranks: tuple[dict[str, int], str], name: str, told: str
) -> None:
    codes, printed = two_ranks
    assert codes[name] == 3
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len([line for line in errors if told in line and "data.max_bad_share" in line]) == 1


def test_a_run_that_does_not_skip_ends_with_code_3_and_one_line_that_names_the_sample(toy: Path) -> None:
    done = deepspeed(2, "--module", "engine.train", *arguments(toy, "failed"), timeout_s=120)
    assert done.returncode == 3, done.stdout + done.stderr
    [error] = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    step, sample_id = planned_rows(toy)[0]
    index = open_index(toy / "shards", "train")
    assert f"image(s) of step {step} cannot be used: sample '{index.key(sample_id)}' in " in error
    assert f" at byte {index.offset[sample_id]}: " in error
    assert [line["step"] for line in lines(toy / "failed" / "metrics.jsonl")] == list(range(step))


@pytest.mark.parametrize("error", [UnreadableUnitsError, StaleIndexError, OSError])
def test_what_is_wrong_with_the_files_is_told_as_an_error_of_the_data(error: type[Exception]) -> None:
    def batches() -> Iterator[Batch]:
        raise error("/shards/train-0: what is wrong")
        yield

    with pytest.raises(DataError, match="/shards/train-0: what is wrong"):
        list(read_batches(cast(PatchLoader, batches())))
