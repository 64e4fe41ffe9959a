"""Runs on several sources with several validation sets: what is seen, counted, told and taken up again."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from launching import run_jobs
from PIL import Image
from run_results import lines, summary

from benchmarks.shared.shard_files import write_tar
from benchmarks.shared.toy_data import NUM_TRAIN, toy_image, write_toy_config, write_toy_shards
from engine.config import load_config
from engine.monitor import scalars
from pipeline.shards.data_sets import open_train
from pipeline.shards.index import build_index
from tools.inspect.inspection import describe, inspect_step
from tools.report.files import read_run
from tools.report.run import report_run
from tools.sweep.__main__ import main as sweep

NAMES = ["red", "green", "blue", "white"]
OWN_NAMES = ["white", "red", "green", "blue"]  # of the second source, which numbers the same classes otherwise
NUM_MORE, BAD = 40, 7
RUNS = {
    "whole": "data.mix_per=batch",
    "stopped": "data.mix_per=batch",
    "epoch": "data.mix_per=epoch",
    "cached": "data.cache={kind: disk, folder: CACHE, max_bytes: 1000000}",
}


def write_more(folder: Path) -> None:
    """Another source, and another validation set: one image of the source cannot be decoded."""
    for split, first in (("train", 20_000), ("val", 30_000)):
        members = []
        for number in range(first, first + NUM_MORE):
            pixels, label = toy_image(number)
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            image = png.getvalue()
            if number == 20_000 + BAD:
                image = image[:60] + bytes(len(image) - 60)
            members += [(f"{number}.png", image), (f"{number}.cls", str(OWN_NAMES.index(NAMES[label])).encode())]
        build_index(folder, split, [write_tar(folder / f"{split}-000000.tar", members)])
    (folder / "dataset.json").write_text(json.dumps({"classes": OWN_NAMES}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, which every test below looks at."""
    folder = tmp_path_factory.mktemp("mixture")
    config = yaml.safe_load(write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "first")).read_text())
    (folder / "first" / "dataset.json").write_text(json.dumps({"classes": NAMES}))
    write_more(folder / "more")
    each = {"first": str(folder / "first"), "more": str(folder / "more")}
    config["data"]["train"] = [
        {"name": name, "folder": each[name], "share": share} for name, share in (("first", 0.7), ("more", 0.3))
    ]
    config["data"]["val"] = [{"name": f"held-{name}", "folder": place} for name, place in each.items()]
    config["data"] |= {"num_classes": "auto", "on_bad_sample": "skip", "max_bad_share": 0.03}
    (folder / "toy.yaml").write_text(yaml.safe_dump(config))
    jobs: list[list[str] | dict[str, Any]] = []
    for name, setting in RUNS.items():
        flags = ["--set", setting.replace("CACHE", str(folder / "cache"))]
        jobs.append(["--config", str(folder / "toy.yaml"), "--out", str(folder / name), *flags])
    jobs.insert(1, [*jobs[1], "--max-steps", "10"])  # type: ignore[misc]
    jobs[0] = {"argv": jobs[0], "seen": str(folder / "seen")}
    refused = [*jobs[2], "--set", "data.train=" + json.dumps([{**config["data"]["train"][0], "share": 1}])]  # type: ignore[misc]
    strict = ["--config", str(folder / "toy.yaml"), "--out", str(folder / "strict"), "--set", "data.max_bad_share=0.01"]
    codes, printed = run_jobs(2, [*jobs, refused, strict], folder / "jobs")
    assert codes == [0] * len(jobs) + [2, 3], printed
    (folder / "printed").write_text(printed)
    return folder


def test_every_batch_has_the_stated_shares(folder: Path) -> None:
    rows = [line["source_rows"] for line in lines(folder, "whole", "train")]
    assert {(one["first"], one["more"]) for one in rows} == {(11, 5), (12, 4)}
    more = [one["more"] for one in rows]
    assert sum(more[:15]) == 72  # an epoch, the 240 samples of both
    assert sum(more[15:]) in (43, 44)  # of 43.2
    seen = [json.loads(line) for rank in range(2) for line in (folder / f"seen.{rank}").read_text().splitlines()]
    assert len({(step, row) for step, row, _ in seen}) == 24 * 16
    by_step = Counter(step for step, _, sample in seen if sample >= NUM_TRAIN)
    assert [by_step[step] for step in range(24)] == [one["more"] for one in rows]


def test_a_small_source_is_passed_through_again_and_again(folder: Path) -> None:
    seen = [json.loads(line) for rank in range(2) for line in (folder / f"seen.{rank}").read_text().splitlines()]
    often = Counter(sample for _, _, sample in seen if sample >= NUM_TRAIN)
    # Three passes, the last of them not to its end; one sample is always replaced by another one of the same source.
    assert set(range(NUM_TRAIN, NUM_TRAIN + NUM_MORE)) - set(often) == {NUM_TRAIN + BAD}
    assert sorted(often.values())[:-1] == sorted(one for one in often.values() if one <= 3)


def test_a_mixed_run_that_was_stopped_or_keeps_decoded_images_ends_bit_identical(folder: Path) -> None:
    assert summary(folder, "stopped")["weights_digest"] == summary(folder, "whole")["weights_digest"]
    assert summary(folder, "cached")["weights_digest"] == summary(folder, "whole")["weights_digest"]
    assert summary(folder, "epoch")["weights_digest"] != summary(folder, "whole")["weights_digest"]


def test_a_changed_mixture_is_another_run(folder: Path) -> None:
    assert "data.train.sources: [{'name': 'first', 'share': 0.7}, {'name': 'more', 'share': 0.3}] there" in (
        folder / "printed"
    ).read_text().replace("\n", " ")


def test_under_mix_per_epoch_batches_differ_and_the_epoch_does_not(folder: Path) -> None:
    rows = [line["source_rows"]["more"] for line in lines(folder, "epoch", "train")]
    assert len(set(rows)) > 2
    assert sum(rows[:15]) == 72


def test_bad_samples_are_counted_by_their_source(folder: Path) -> None:
    bad = [json.loads(line) for line in (folder / "whole" / "bad_samples.jsonl").read_text().splitlines()]
    assert [(one["event"], one["source"], one["shard"], one["key"]) for one in bad] == [
        ("train", "more", "train-000000.tar", "20007")
    ]
    assert bad[0]["substitute_shard"] == "train-000000.tar"
    # A hundredth of all 240 samples would be two of them.
    assert (
        f"1 of the {NUM_MORE} samples in {folder / 'more'} (train) are bad so far" in (folder / "printed").read_text()
    )


def test_every_validation_set_is_evaluated_by_itself_and_the_first_one_counts(folder: Path) -> None:
    evals = lines(folder, "whole", "eval")
    assert [(one["val"], one["keep_rate"], one["num_samples"]) for one in evals] == [
        *(("held-first", rate, 50) for rate in (1.0, 0.4)),
        *(("held-more", rate, NUM_MORE) for rate in (1.0, 0.4)),
    ]
    told = summary(folder, "whole")
    assert list(told["val"]) == ["held-first", "held-more"]
    assert told["top1"] == told["val"]["held-first"]["top1"]
    # What is learnt of the colours holds for both, as long as the labels of both are the same run's.
    assert min(told["val"][name]["top1"]["1.0"] for name in told["val"]) > 0.8
    assert "eval/held-more/top1_keep_0.4" in scalars(evals[-1])[1]
    printed = (folder / "printed").read_text()
    assert "mixed by the batch: first 0.7 of the rows (200 samples, 0.84 passes an epoch), more 0.3 of the" in printed
    assert "validation on held-more after step 24, top-1 by keep rate" in printed
    assert "the table above is of held-first" in printed
    assert json.loads((folder / "whole" / "model" / "config.json").read_text())["label_names"] == NAMES


def test_tools_tell_sources_and_sets_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(folder / "toy.yaml")
    shown = inspect_step(config, 3)
    assert Counter(one["source"] for one in shown.samples()) in ({"first": 11, "more": 5}, {"first": 12, "more": 4})
    assert "more/train-000000.tar" in describe(shown)
    assert open_train(config.data).num_samples == NUM_TRAIN + NUM_MORE
    assert sweep([str(folder / "whole"), "--keep-rates", "1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    whole = summary(folder, "whole")["val"]
    assert {one["val"]: one["top1"] for one in results} == {name: whole[name]["top1"]["1.0"] for name in whole}
    told = " ".join(report_run(read_run(folder / "whole")).findings)
    assert "On held-first it ends at a top-1 of" in told
    assert "On held-more it ends at" in told
