import json
import shutil
from pathlib import Path
from typing import Any

from finished_run import write_finished_run
from study_file import study, variant, write_study

from engine.config import load_config
from tools.report.__main__ import main
from tools.report.files import read_sweep
from tools.report.findings import findings
from tools.report.study_files import read_study
from tools.report.study_sweep import swept


def test_the_findings_are_worked_out_from_the_figures(tmp_path: Path) -> None:
    said = " ".join(findings(read_study(write_study(tmp_path / "study", study())))).replace("\u00a0", " ")
    assert "reaches 88.10 ± 0.10 % top-1" in said
    assert "faster than full: not told apart from it: linear-contrast; clearly less accurate: cyclic-random." in said
    assert "The fastest that is not clearly less accurate, linear-contrast, takes 66% of" in said
    assert "the fastest is cyclic-random, with 85.03 ± 0.06 % in 60% of it" in said
    assert "40% of the patches only, linear-contrast is best with 84.00" in said
    assert "(patches chosen by contrast); full has" in said
    assert (
        "(full@linear-contrast, 67% of the reference's time) reaches 87.10 ± 0.10 %. linear-contrast, with 66%" in said
    )
    assert "is clearly better (+0.98 points, 95 % interval +0.72 to +1.24)" in said


def test_the_findings_change_with_the_figures(tmp_path: Path) -> None:
    values = study()
    values["variants"][1] = variant("linear-contrast", "linear", "contrast", 0.66, [0.8, 0.8, 0.8], 0.3)
    values["variants"] = values["variants"][:2]
    said = " ".join(findings(read_study(write_study(tmp_path / "worse", values)))).replace("\u00a0", " ")
    assert "faster than full: clearly less accurate: linear-contrast. Clearly: the 95 % interval" in said
    assert "The fastest that" not in said
    assert "the patches only, full is best" in said
    values["variants"] = [variant("full", "constant", "contrast", 1.0, [0.88], 0.48)]
    said = " ".join(findings(read_study(write_study(tmp_path / "alone", values))))
    assert "The reference full reaches 88.00% top-1." in said


def test_each_validation_set_has_figures_of_its_own(tmp_path: Path) -> None:
    values = study()
    assert main([str(write_study(tmp_path / "one", values))]) == 0
    assert "Each validation set by itself" not in (tmp_path / "one" / "report.html").read_text()
    for row, new in zip(values["variants"], (0.5, 0.6, 0.7), strict=False):
        row["val_top1_mean"] = {"old": row["top1_mean"], "new": {"1.0": new}}
        row["val_top1_stdev"] = {"old": row["top1_stdev"], "new": {"1.0": 0.01}}
    assert main([str(write_study(tmp_path / "several", values))]) == 0
    text = (tmp_path / "several" / "report.html").read_text()
    assert "<h2>Each validation set by itself</h2>" in text
    assert "are of the first set, old." in text
    assert "new, top-1 at 1.0, %" in text
    assert "60.00 ± 1.00" in text


def test_two_seeds_are_called_two_seeds(tmp_path: Path) -> None:
    values = study()
    values["variants"] = [
        variant("full", "constant", "contrast", 1.0, [0.80, 0.81], 0.48),
        variant("fast", "linear", "contrast", 0.5, [0.845, 0.887], 0.48),
    ]
    said = " ".join(findings(read_study(write_study(tmp_path / "study", values)))).replace("\u00a0", " ")
    assert "not told apart from it: fast. These are two seeds, too few to tell any difference from chance." in said
    assert "(+6.10 points in two seeds: +4.50 and +7.70)" in said
    assert "interval" not in said


def test_a_variant_that_is_clearly_better_is_called_so(tmp_path: Path) -> None:
    values = study()
    values["variants"] = [
        variant("full", "constant", "contrast", 1.0, [0.80, 0.80, 0.80], 0.48),
        variant("fast", "linear", "contrast", 0.5, [0.84, 0.86, 0.883], 0.48),
        variant("slow", "linear", "contrast", 1.5, [0.84, 0.86, 0.883], 0.48),
    ]
    said = " ".join(findings(read_study(write_study(tmp_path / "study", values)))).replace("\u00a0", " ")
    assert "of the variants that are faster than full: clearly more accurate: fast." in said
    assert "(+6.10 points, 95 % interval +0.75 to +11.45)" in said
    values["variants"].pop(1)
    said = " ".join(findings(read_study(write_study(tmp_path / "slow", values))))
    assert "No variant is faster than full." in said


def test_a_study_without_results_is_a_page_that_says_so(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "empty", {"name": "s", "seeds": [0], "reference": "full", "variants": []})
    assert main([str(folder)]) == 0
    text = (folder / "report.html").read_text()
    assert "No run of the study is finished yet" in text
    (folder / "study.json").write_text("[]")
    assert main([str(folder)]) == 2


def test_runs_on_other_hardware_are_named_and_not_timed(tmp_path: Path) -> None:
    values = study()
    linear = values["variants"][1]
    linear["runs"][2]["hardware"] = {"cpu": "another", "cores": 4, "gpus": [], "system": "Linux"}
    linear["runs"][1]["hardware"] = {**values["hardware"], "memory_gib": 23.4}  # the same machine, but for a reserve
    linear["num_timed"] = 2
    folder = write_study(tmp_path / "study", values)
    assert main([str(folder)]) == 0
    text = (folder / "report.html").read_text()
    assert "0.66 ± 0.01 (2 of 3)" in text
    assert "Runs on other hardware than that shown: linear-contrast seed 2 (another, 4 core(s), Linux)" in text


def test_configurations_come_from_the_records_and_the_model_from_wherever_the_runs_are(
    tmp_path: Path,
) -> None:
    run = write_finished_run(tmp_path)
    folder = write_study(tmp_path / "study", study())
    (folder / "records").mkdir()
    for name, kind in (("full", "constant"), ("linear-contrast", "linear")):
        config = load_config(run / "config.yaml", [f"schedule={{kind: {kind}, keep_rate: 1.0}}"] * (kind == "constant"))
        record = json.dumps({"config": config.model_dump(mode="json")})
        (folder / "records" / f"{name}-seed1.json").write_text(record)
    (folder / "records" / "cyclic-random-seed0.json").write_text("{}")
    found = read_study(folder)
    assert {name: config.schedule.kind for name, config in found.configs.items()} == {
        "full": "constant",
        "linear-contrast": "linear",
    }
    assert (found.config_of, found.finished_run) == ("the variant full", None)
    assert any("cyclic-random-seed0.json holds no configuration" in line for line in found.absent)
    shutil.copytree(run, tmp_path / "elsewhere" / "linear-contrast-seed2")
    found = read_study(folder, tmp_path / "elsewhere")
    assert found.config == found.configs["linear-contrast"]  # of the run whose model shows what magnitude keeps
    assert found.finished_run == tmp_path / "elsewhere" / "linear-contrast-seed2"


def swept_lines(run: str, rule: str, top1: dict[float, float], digest: str = "ab") -> list[dict[str, Any]]:
    return [
        {"run": run, "rule": rule, "keep_rate": rate, "top1": value, "weights_digest": digest}
        for rate, value in top1.items()
    ]


def test_a_studys_sweep_compares_variants_at_the_rule_that_suits_each_best(tmp_path: Path) -> None:
    lines = [
        *swept_lines("linear-contrast-seed0", "contrast", {1.0: 0.88, 0.4: 0.84}),
        *swept_lines("linear-contrast-seed1", "contrast", {1.0: 0.88, 0.4: 0.82}),
        *swept_lines("full-seed0", "contrast", {0.4: 0.48}),
        *swept_lines("full-seed0", "random", {0.4: 0.64}),
        *swept_lines("full-seed1", "random", {0.4: 0.99}, digest="of other weights"),
        *swept_lines("unheard-of-seed0", "random", {0.4: 0.99}),
    ]
    folder = write_study(tmp_path / "study", study())
    (folder / "sweep").mkdir()
    (folder / "sweep" / "sweep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_study(folder)
    rows, unknown = swept(found)
    assert [(row.variant, row.rule, row.top1) for row in rows] == [
        ("full", "contrast", {0.4: [0.48]}),
        ("full", "random", {0.4: [0.64]}),
        ("linear-contrast", "contrast", {1.0: [0.88, 0.88], 0.4: [0.84, 0.82]}),
    ]
    assert unknown == ["full-seed1", "unheard-of-seed0"]
    assert "full has 64.00% (by random) and linear-contrast 83.00% (by contrast)" in " ".join(findings(found))
    assert main([str(folder), "--png-dir", str(tmp_path)]) == 0
    text = (folder / "report.html").read_text()
    assert "<h2>Which patches a trained model is shown</h2>" in text
    assert "83.00 ± 1.41" in text
    assert "Sweeps of full-seed1, unheard-of-seed0" in text
    assert (tmp_path / "rules-keep-rate.png").is_file()


def test_a_sweep_at_several_sizes_is_read_as_a_rule_for_each(tmp_path: Path) -> None:
    lines = [{"rule": "random", "image_size": size, "patch_size": 16, "keep_rate": 1.0} for size in (160, 224)]
    (tmp_path / "sweep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rules = [line["rule"] for line in read_sweep(tmp_path, tmp_path / "sweep.jsonl")]
    assert rules == ["random, images of 160 pixels", "random, images of 224 pixels"]
    (tmp_path / "sweep.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert read_sweep(tmp_path, tmp_path / "sweep.jsonl") == lines[:1]
