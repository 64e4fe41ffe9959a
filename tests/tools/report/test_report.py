import io
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import tostring

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser, open_browser
from finished_run import write_finished_run
from PIL import Image
from study_file import study, write_study

from engine.config import dump_config, load_config
from engine.evaluation.inference import Classifier
from engine.evaluation.trained import validation_images
from engine.run_plan import build_schedule
from tools.report.__main__ import main
from tools.report.page import bullets, table, tag
from tools.report.plot import looks, smoothed

STAGES = {0.2: 2, 0.4: 6, 0.6: 9, 0.8: 13, 1.0: 16}
SEARCHED = {"top1": 0.5, "top5": 1.0, "images_per_s": 9.0, "forward_flops_per_image": 10**6, "bytes_per_image": 99}


def write_records(run: Path) -> None:
    """Metrics and a summary as training would leave them beside the toy run's configuration and model."""
    config = load_config(run / "config.yaml")
    schedule = build_schedule(config, 200)
    lines: list[dict[str, Any]] = []
    for step in range(24):
        stage = schedule.stage(step)
        speed = {"step_s": 0.5, "loader_wait_s": 0.1, "images_per_s": 32.0, "bytes_per_image": 100.0}
        kept = {"keep_rate": stage.keep_rate, "num_kept": stage.num_kept, "interval_steps": 1}
        lines.append({"event": "train", "step": step, "epoch": 0, "loss": 2 - step / 24, "lr": 0.1, **speed, **kept})
        if step in (11, 23):
            for rate in (1.0, 0.4):
                measured = {"top1": rate * step / 24, "top5": 1.0, "loss": 1.0, "num_samples": 50}
                lines.append({"event": "eval", "step": step + 1, "keep_rate": rate, "num_kept": 16, **measured})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stages = [
        {"keep_rate": rate, "num_kept": kept, "num_steps": 5, "images_per_s": 32.0, "loader_wait_share": 0.2}
        for rate, kept in STAGES.items()
    ]
    summary = {
        "top1": {"1.0": 0.9123, "0.4": 0.5},
        "train_wall_s": 12.0,
        "full_patches_train_wall_s": 24.0,
        "steps": 24,
        "mean_keep_rate": 0.64,
        "images_per_s": 32.0,
        "stages": stages,
        "hardware": {"cpu": "Some <processor> & more", "cores": 2, "gpus": [], "torch": "2.14.1"},
    }
    (run / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_finished_run(tmp_path_factory.mktemp("toy"))
    write_records(run)
    return run


@pytest.fixture(scope="module")
def run_page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with everything, and its PNG files in ``png`` beside it."""
    folder = tmp_path_factory.mktemp("run_page")
    lines = [
        {"run": "toy", "rule": rule, "keep_rate": rate, "num_kept": 8, **SEARCHED}
        for rule in ("contrast", "magnitude")
        for rate in (1.0, 0.4)
    ]
    (folder / "sweep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage = {"keep_rate": 0.4, "num_kept": 6, "loader_images_per_s": 1234.0, "step_images_per_s": None}
    (folder / "profile.json").write_text(json.dumps({"command": "python -m tools.profile <x>", "stages": [stage]}))
    extras = ["--sweep", str(folder / "sweep.jsonl"), "--profile", str(folder / "profile.json")]
    assert main([str(run), "--out", str(folder / "run.html"), "--png-dir", str(folder / "png"), *extras]) == 0
    return folder / "run.html"


@pytest.fixture(scope="module")
def study_page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study"), study())
    for name in ("full-seed0", "linear-contrast-seed1"):
        shutil.copytree(run, folder / "runs" / name)
    assert main([str(folder)]) == 0
    return folder / "report.html"


# Elements


def test_whatever_a_text_holds_it_stays_a_text() -> None:
    shown = tostring(tag("p", "<script>", tag("b", "a & b"), "</p>", title='"'), encoding="unicode", method="html")
    assert shown == '<p title="&quot;">&lt;script&gt;<b>a &amp; b</b>&lt;/p&gt;</p>'
    assert "<x>" not in tostring(table(["<x>"], [["<x>", "<x>"]]), encoding="unicode")
    assert "<x>" not in tostring(bullets(["<x>"]), encoding="unicode")


def test_no_two_lines_look_alike() -> None:
    groups = [(schedule, rule) for schedule in "abcd" for rule in "xyz"] + [("a", "x"), ("a", "x")]
    found = looks(groups)
    assert len(set(found)) == len(groups)
    assert len({look.color for look in found}) == 4
    assert found[0].marker == found[3].marker != found[1].marker


def test_smoothing_is_a_mean_of_the_neighbours() -> None:
    values = np.random.default_rng(0).random(400)
    expected = [values[max(i - 5, 0) : i + 6].mean() for i in range(400)]
    assert smoothed(values.tolist()) == pytest.approx(expected)
    assert smoothed([3.0, 1.0]) == [3.0, 1.0]


# A run


def test_a_runs_page_tells_everything_that_its_files_hold(run_page: Path) -> None:
    text = run_page.read_text()
    told = ("91.23%", "50%", "learning rate", "Some &lt;processor&gt; &amp; more", "tools.profile &lt;x&gt;", "1,234")
    assert [one for one in told if one not in text] == []
    headings = ("Results", "Loss", "Validation: top-1", "Schedule", "Speed per stage", "Sweep", "Kept patches")
    assert [one for one in (*headings, "Configuration") if f"<h2>{one}</h2>" not in text] == []
    assert "What is not shown" not in text
    assert "global_batch_size: 16" in text


def test_every_picture_is_a_png_file_too(run_page: Path) -> None:
    names = {path.stem for path in (run_page.parent / "png").iterdir()}
    assert names >= {"loss-steps", "loss-time", "validation-time", "keep-rate", "images-per-s", "loader-wait", "sweep"}
    assert names >= {"mosaic-magnitude", "mosaic-contrast", "mosaic-grid", "mosaic-random"}
    for path in (run_page.parent / "png").iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.std() > 5, f"{path.name} is blank"


def test_a_mosaic_shows_the_patches_that_validation_keeps(run: Path, run_page: Path) -> None:
    sheet = np.asarray(Image.open(run_page.parent / "png" / "mosaic-magnitude.png").convert("RGB")).astype(int)
    images = validation_images(load_config(run / "config.yaml"), 4)
    kept = set(Classifier.load(run).select(torch.from_numpy(images), 0.4, "magnitude")[1].tolist())
    top = sheet.shape[0] - 3 * 116  # of the second of four images
    cells = [sheet[top : top + 112, column * 116 + 2 : column * 116 + 114] for column in (0, 3)]
    tiles = [cell.reshape(4, 28, 4, 28, 3).transpose(0, 2, 1, 3, 4).reshape(16, -1) for cell in cells]
    changed = np.abs(tiles[0] - tiles[1]).mean(axis=1)
    assert {i for i in range(16) if changed[i] < 12} == kept  # 256 colours for the whole sheet shift pixels a little


def test_a_run_that_is_not_done_says_what_is_absent(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run / "config.yaml", tmp_path)
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    for part in ("Loss", "Validation", "Results", "Sweep", "Profile", "Mosaic of the rule magnitude"):
        assert f"<li>{part}" in text
    assert "The run is not done" in text
    assert "not shown: Results" in capsys.readouterr().out


def test_a_run_of_pretraining_is_told_by_its_reconstruction_loss(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    changes = ["task=pretrain", "schedule.keep_rate=[0.2, 0.6]", "eval.keep_rates=[0.4]", "data.val=/nowhere"]
    (copy / "config.yaml").write_text(dump_config(load_config(run / "config.yaml", changes)))
    summary = json.loads((copy / "summary.json").read_text())
    del summary["top1"]
    (copy / "summary.json").write_text(json.dumps({**summary, "reconstruction_loss": {"0.4": 0.5123}}))
    line = {"event": "eval", "step": 24, "keep_rate": 0.4, "num_kept": 6, "loss": 0.5123}
    (copy / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert main([str(copy)]) == 0
    text = (copy / "report.html").read_text()
    assert "ends at a reconstruction loss of 0.5123 at keep rate 0.4" in text
    assert "<h2>Validation: reconstruction loss</h2>" in text
    assert "top-1" not in text


def test_without_its_images_a_run_has_a_page_still(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("/shards", "/gone"))
    (copy / "metrics.jsonl").unlink()  # drawing takes its time, and is tested elsewhere
    assert main([str(copy)]) == 0
    text = (copy / "report.html").read_text()
    assert "<li>Kept patches: " in text
    assert "<h2>Results</h2>" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{nothing}"], "is neither a run folder"),
        (["{run}", "--out", "page.txt"], ".html file"),
        (["{run}", "--out", "{nothing}/page.html"], "does not exist"),
        (["{run}", "--sweep", "{nothing}/sweep.jsonl"], "there is no file"),
        (["{run}", "--profile", "{run}/config.yaml"], "is not valid JSON"),
        (["{study}", "--sweep", "{nothing}/sweep.jsonl"], "there is no file"),
        (["{study}", "--profile", "p.json"], "belongs to a run's report"),
        (["{run}", "--runs", "{run}"], "belongs to a study's report"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    arguments: list[str], said: str, run: Path, study_page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"run": run, "study": study_page.parent, "nothing": tmp_path / "nothing"}
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err.rstrip("\n")
    assert error.startswith("error: ")
    assert said in error
    assert "\n" not in error


# A study


def test_a_studys_page_has_a_row_for_each_variant_and_names_what_is_missing(study_page: Path) -> None:
    text = study_page.read_text()
    assert "<h1>a &lt;b&gt;study&lt;/b&gt;</h1>" in text
    assert "88.10 ± 0.10" in text
    assert "-0.02 ± 0.10" in text  # -0.1, 0.1 and -0.05 points, paired by seed
    for gap in ("cosine-grid: it has no finished run yet", "missing: cosine-grid seed 0"):
        assert gap in text
    assert "keep rates of cyclic-random: neither " in text
    assert "A processor &lt;&amp;&gt; more" in text


# In a browser


@pytest.fixture(scope="module")
def browser() -> Any:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["run_page", "study_page"])
def test_a_browser_shows_the_page_without_scrolling_sideways(
    name: str, width: int, browser: Browser, request: pytest.FixtureRequest
) -> None:
    page: Path = request.getfixturevalue(name)
    browser.events.clear()
    browser.open(page, width)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("[...document.images].filter(i => !i.naturalWidth || !i.alt).length") == 0
    assert browser.run("document.images.length") >= 7
    boxes = "[...document.querySelectorAll('img')].map(i => (r => [r.x, r.y, r.width, r.height])"
    shot = Image.open(io.BytesIO(browser.screenshot())).convert("L")
    for x, y, w, h in browser.run(boxes + "(i.getBoundingClientRect()))"):
        assert 0 < x < x + w <= width
        drawn = np.asarray(shot.crop((int(x), int(y), int(x + w), int(y + h))))
        assert w > 300
        assert drawn.std() > 5, "a picture is blank on the page"
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.complaints() == []


def test_letters_in_drawings_are_legible_on_a_phone(study_page: Path, browser: Browser) -> None:
    """Drawings have letters of 9.5 points or more; a phone shows them scaled by its width over theirs."""
    browser.open(study_page, 390)
    scales = browser.run("[...document.images].filter(i => i.src.includes('svg')).map(i => i.width / i.naturalWidth)")
    assert min(scales) * 9.5 * 96 / 72 > 8


def test_a_wide_table_scrolls_within_itself(study_page: Path, browser: Browser) -> None:
    browser.open(study_page, 390)
    widths = browser.run("[...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])")
    assert any(content > box for content, box in widths)
    browser.run("document.querySelector('.scroll').scrollLeft = 100")
    assert browser.run("document.querySelector('.scroll').scrollLeft") == 100


def shadows(browser: Browser) -> list[bool]:
    """Whether the first table's box is shadowed at its left and at its right edge."""
    box = "(r => [r.x, r.y + r.height - 2, r.width])(document.querySelector('.scroll').getBoundingClientRect())"
    x, y, width = browser.run(box)
    row = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB"))[int(y)].astype(int)
    blue_over_red = row[:, 2] - row[:, 0]
    return [bool(blue_over_red[int(at)] > 50) for at in (x + 1, x + width - 2)]


def test_a_table_that_goes_on_is_shadowed_at_that_edge(study_page: Path, browser: Browser) -> None:
    browser.open(study_page, 390)
    assert shadows(browser) == [False, True]
    browser.run("document.querySelector('.scroll').scrollLeft = 100")
    assert shadows(browser) == [True, True]
    browser.run("document.querySelector('.scroll').scrollLeft = 10000")
    assert shadows(browser) == [True, False]
    browser.run("document.querySelector('.scroll').style.width = 'max-content'")
    browser.run("document.querySelector('.scroll').style.maxWidth = 'none'")
    assert shadows(browser)[0] is False


def test_it_prints(study_page: Path, browser: Browser) -> None:
    browser.open(study_page, 1280)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF-")
    assert 2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page/") <= 12
