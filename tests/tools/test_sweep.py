import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from finished_run import write_finished_run
from launching import deepspeed
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.evaluation.inference import Classifier
from engine.evaluation.trained import load_trained, validation_images, validation_map_scores
from engine.models.build import training_flops_per_image
from engine.ranks.world import World
from pipeline.plan.schedule import num_kept_at
from pipeline.shards.index import open_index
from tools.shards.maps.score import MapJob, score_folder
from tools.sweep.__main__ import main
from tools.sweep.jobs import Job, run_job


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished_run(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]


def test_each_line_says_what_the_model_does_at_that_rate(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules, rates = ["contrast", "magnitude", "magnitude:sketch:6"], ["1", "0.5", "0.2"]
    assert main([str(run), "--rules", *rules, "--keep-rates", *rates]) == 0
    lines = lines_of(run / "sweep")
    assert [(line["rule"], line["keep_rate"]) for line in lines] == [(r, float(k)) for r in rules for k in rates]
    config = load_trained(run).config
    classifier, images = Classifier.load(run), torch.from_numpy(validation_images(config, 50))
    labels = torch.from_numpy(open_index(config.data.val, "val").label.astype("int64"))
    for line in lines:
        logits = classifier.logits(images, line["keep_rate"], line["rule"])
        assert line["num_samples"] == 50
        assert line["top1"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
        assert line["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
        assert line["top5"] == 1  # of four classes
        assert line["forward_flops_per_image"] * 3 == training_flops_per_image(classifier.model, line["num_kept"])
        assert line["bytes_per_image"] == line["num_kept"] * (4 * 4 * 3 + 4) + 8
    printed = capsys.readouterr().out
    assert "magnitude:sketch:6" in printed
    assert f"{lines[0]['top1']:.2%}" in printed
    rows = list(csv.DictReader((run / "sweep" / "sweep.csv").open()))
    assert [float(row["top1"]) for row in rows] == [line["top1"] for line in lines]
    assert Image.open(run / "sweep" / "sweep.png").width > 500


def test_a_run_is_swept_at_other_image_and_patch_sizes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--image-sizes", "16", "24", "--patch-sizes", "4", "8"]
    assert main([str(run), "--rules", "contrast", "magnitude", "--keep-rates", "1", "0.5", *sizes]) == 0
    lines = lines_of(run / "sweep")
    assert [(line["rule"], line["image_size"], line["patch_size"], line["keep_rate"]) for line in lines] == [
        (rule, image_size, patch_size, rate)
        for rule in ("contrast", "magnitude")
        for image_size in (16, 24)
        for patch_size in (4, 8)
        for rate in (1, 0.5)
    ]
    trained, classifier = load_trained(run), Classifier.load(run)
    labels = torch.from_numpy(open_index(trained.config.data.val, "val").label.astype("int64"))
    for line in lines:
        at = {"image_size": line["image_size"], "patch_size": line["patch_size"]}
        config = trained.config.model_copy(update={"data": trained.config.data.at(**at)})
        images = torch.from_numpy(validation_images(config, 50))
        logits = classifier.logits(images, line["keep_rate"], line["rule"], **at)
        assert images.shape[1] == line["image_size"]
        assert line["num_kept"] == num_kept_at(line["keep_rate"], (at["image_size"] // at["patch_size"]) ** 2)
        assert line["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-4)
        flops = training_flops_per_image(classifier.model, line["num_kept"], at["patch_size"])
        assert line["forward_flops_per_image"] * 3 == flops
        assert line["bytes_per_image"] == line["num_kept"] * (at["patch_size"] ** 2 * 3 + 4) + 8
    assert len({line["loss"] for line in lines if line["rule"] == "contrast"}) == 8
    assert "contrast, images of 24 pixels, patches of 8 pixels" in capsys.readouterr().out
    rows = list(csv.DictReader((run / "sweep" / "sweep.csv").open()))
    assert [(row["image_size"], row["patch_size"]) for row in rows[:4:2]] == [("16", "4"), ("16", "8")]


def test_a_line_that_says_no_patch_size_is_of_the_runs_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--keep-rates", "0.5"]) == 0
    results = run / "sweep" / "sweep.jsonl"
    (line,) = lines_of(run / "sweep")
    assert line.pop("patch_size") == 4
    results.write_text(json.dumps(line) + "\n")
    capsys.readouterr()
    assert main([str(run), "--keep-rates", "0.5", "--patch-sizes", "4", "8", "--json"]) == 0
    old, new = lines_of(run / "sweep")
    assert old == line
    assert new["patch_size"] == 8
    assert [told["patch_size"] for told in json.loads(capsys.readouterr().out)["results"]] == [4, 8]


def test_score_maps_are_a_rule_and_other_scores_are_computed_anew(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"data.val={shutil.copytree(load_trained(run).config.data.val, tmp_path / 'shards')}"
    arguments = [str(run), "--rules", "map:mine", "--keep-rates", "0.5", "--set", place]
    assert main(arguments) == 2
    assert "python -m tools.shards score" in capsys.readouterr().err
    score_folder(tmp_path / "shards", MapJob("contrast", name="mine"), split="val")
    assert main(arguments) == 0
    config = load_trained(run, [place]).config
    scores, images = validation_map_scores(config, 50, "mine"), torch.from_numpy(validation_images(config, 50))
    labels = torch.from_numpy(open_index(config.data.val, "val").label.astype("int64"))
    logits = Classifier.load(run).logits(images, 0.5, "map:mine", map_scores=scores)
    (first,) = lines_of(run / "sweep")
    assert first["rule"] == "map:mine"
    assert first["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
    assert main(arguments) == 0
    assert lines_of(run / "sweep") == [first]
    score_folder(tmp_path / "shards", MapJob("contrast", name="mine", grid_size=5), split="val")
    assert main(arguments) == 0
    assert len(lines_of(run / "sweep")) == 2


def test_where_every_patch_is_kept_one_pass_serves_all_rules(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    passes: list[tuple[str, float]] = []

    def noted(job: Job, world: World, bar: Any) -> dict[str, Any]:
        passes.append((job.key["rule"], job.keep_rate))
        os.write(1, b"what a library prints\n")
        return run_job(job, world, bar)

    arguments = [str(run), "--set", "data.augment.crop=resized", "--rules"]
    with patch("tools.sweep.jobs.run_job", noted):
        assert main([*arguments, "contrast", "random", "grid", "--keep-rates", "1", "0.5"]) == 0
        assert passes == [("contrast", 1.0), ("contrast", 0.5), ("random", 0.5), ("grid", 0.5)]
        told = "keep rate 1: every patch is kept, so that all rules are the same; measured once, by contrast"
        printed = capfd.readouterr()
        assert told in printed.out
        assert ("a library" in printed.out, "a library" in printed.err) == (False, True)
        lines = lines_of(run / "sweep")
        full = [line for line in lines if line["keep_rate"] == 1]
        assert [(line["rule"], line.pop("same_as", None)) for line in full] == [
            ("contrast", None),
            ("random", "contrast"),
            ("grid", "contrast"),
        ]
        assert [line | {"rule": ""} for line in full] == [full[0] | {"rule": ""}] * 3
        assert main([*arguments, "grid", "magnitude", "--keep-rates", "1"]) == 0
        # That rule looks at whole images, which are resampled before any patch is chosen.
        assert passes[4:] == [("magnitude", 1.0)]


def test_what_is_there_is_not_computed_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--keep-rates", "1", "0.4"]) == 0
    results = run / "sweep" / "sweep.jsonl"
    first, second = lines_of(run / "sweep")
    results.write_text(json.dumps(first) + "\n" + json.dumps(second)[:40])  # as a kill leaves it
    capsys.readouterr()
    assert main([str(run), "--keep-rates", "1", "0.4", "0.2", "--json"]) == 0
    again = lines_of(run / "sweep")
    assert again[0] == first  # its time too
    assert [line["keep_rate"] for line in again] == [1.0, 0.4, 0.2]
    assert again[1]["top1"] == second["top1"]
    assert json.loads(capsys.readouterr().out)["results"] == again


def test_other_weights_are_computed_anew(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--keep-rates", "1"]) == 0
    weights = load_file(run / "model" / "model.safetensors")
    weights["head.bias"] += 1.0
    save_file(weights, run / "model" / "model.safetensors")
    capsys.readouterr()
    assert main([str(run), "--keep-rates", "1", "--json"]) == 0
    old, new = lines_of(run / "sweep")
    assert old["weights_digest"] != new["weights_digest"]
    assert json.loads(capsys.readouterr().out)["results"] == [new]


def test_ctrl_c_is_one_line_that_says_how_to_go_on(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with patch("tools.sweep.jobs.run_job", side_effect=KeyboardInterrupt), pytest.raises(SystemExit) as ended:
        main([str(run), "--keep-rates", "0.5"])
    torch.distributed.destroy_process_group()
    assert ended.value.code == 130
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == "error: interrupted; the same command goes on where it stopped"


def test_several_runs_share_a_picture_and_two_ranks_share_the_work(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "elsewhere" / "run"))
    arguments = [str(run), str(other), "--rules", "random", "contrast", "--keep-rates", "0.5", "--out"]
    done = deepspeed(2, "--module", "tools.sweep", *arguments, tmp_path / "two")
    assert done.returncode == 0, done.stdout + done.stderr
    assert main([*arguments, str(tmp_path / "one")]) == 0
    one, two = lines_of(tmp_path / "one"), lines_of(tmp_path / "two")
    assert [line["run"] for line in one] == [str(run)] * 2 + [str(other)] * 2
    for a, b in zip(one, two, strict=True):
        assert (a["ranks"], b["ranks"], a["num_samples"], b["num_samples"]) == (1, 2, 50, 50)
        assert b["top1"] == a["top1"]
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
    assert Image.open(tmp_path / "two" / "sweep.png").width > 500
    assert f"{two[0]['top1']:.2%}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["RUN", "--rules", "entropy"], "a rule is random, grid, contrast"),
        (["RUN", "--rules", "magnitude:rows:900"], "no more than 32 rows"),
        (["RUN", "--keep-rates", "0.01"], "keeps none of 16 patches"),
        (["RUN", "--keep-rates", "2"], "a keep rate lies in (0, 1]"),
        (["RUN", "--image-sizes", "18"], "patch_size 4 does not divide image_size 18"),
        (["RUN", "--patch-sizes", "0"], "patch_size: "),
        (["RUN", "--patch-sizes", "16", "--keep-rates", "0.5"], "keeps none of 1 patches"),
        (["RUN", "RUN/../run", "--out", "OUT"], "named twice"),
        (["RUN", "OUT"], "--out"),
        (["OUT"], "no run folder"),
        (["RUN", "--set", "data.num_classes=9"], "head.weight, head.bias"),
        (["RUN", "--out", "RUN/config.yaml"], "config.yaml"),
        ([], "required"),
    ],
)
def test_what_cannot_be_used_ends_in_one_line(
    arguments: list[str], words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": str(run), "OUT": str(tmp_path / "out")}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert words in line
