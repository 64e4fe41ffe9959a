"""README and documentation: short, without dead links, and their figures are those of the raw results."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shared.shell import ROOT
from tools.site import anchors_of, links_of

README = ROOT / "README.md"
MOST_BYTES = 9_000
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "faults" / "table.md",
]


def of_page(path: Path) -> str:
    return str(path.relative_to(ROOT))


def result(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) <= MOST_BYTES


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_relative_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    dead = []
    for link in links_of(page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text())):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_module_that_is_to_be_run_exists(page: Path) -> None:
    named = set(re.findall(r"(?:-m|--module) ((?:engine|tools|benchmarks|pipeline)\.[\w.]*\w)", page.read_text()))
    assert {name for name in named if find_spec(name) is None} == set()


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_configuration_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"configs/[\w/]+\.yaml", page.read_text()))
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_every_command_of_the_table_is_a_module_and_every_console_script_is_in_it() -> None:
    section = README.read_text().split("## Commands")[1].split("\n## ")[0]
    named = re.findall(r"^\| `python -m ([\w.]+)`", section, re.MULTILINE)
    scripts = re.findall(r'^pss-\w+ = "([\w.]+):main"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {name for name in named if find_spec(name) is None} == set()
    assert {script.removesuffix(".__main__") for script in scripts} <= set(named)
    assert len(named) == len(set(named))


def test_the_readme_and_the_site_list_every_page() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    listed = set(links_of(README.read_text().split("## Documentation")[1]))
    assert pages - listed == set()
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert {page for page in pages if f" {page}\n" not in navigation} == set()


def test_the_first_table_is_that_of_the_third_seed() -> None:
    summary = result("fashion_mnist_seeds.json")["summaries"]["2"]
    lines = [
        f"{stage['keep_rate']:>9g}   {summary['top1'][str(float(stage['keep_rate']))]:.2%} {stage['num_kept']:>8} "
        f"{stage['num_steps']:>7} {round(stage['images_per_s']):>9}           0%"
        for stage in reversed(summary["stages"])
    ]
    took = f"training took {summary['train_wall_s']:.0f} s for {summary['steps']} steps at a mean keep rate of "
    assert "\n".join(lines) in README.read_text()
    assert f"{took}{summary['mean_keep_rate']:.3f}" in README.read_text()
    assert f"about {summary['full_patches_train_wall_s']:.0f} s, by" in README.read_text()


# Rows of the table of results by study and variant.
STUDIES = {
    "Fashion-MNIST, full patches": ("study_fashion_mnist", "full"),
    "linear schedule, contrast": ("study_fashion_mnist", "linear-contrast"),
    "linear schedule, random": ("study_fashion_mnist", "linear-random"),
    "full patches in about linear's time (told by one of the runs)": ("study_fashion_mnist", "full@linear-contrast"),
    "images of 20 pixels, not 28": ("study_fashion_mnist", "resize-20"),
    "photographs, full patches": ("study_photographs", "full"),
    "photographs, linear schedule, random": ("study_photographs", "linear-random"),
}


@pytest.mark.parametrize("row", STUDIES)
def test_the_table_of_results_is_that_of_the_studies(row: str) -> None:
    study, variant = STUDIES[row]
    found = result(f"{study}/study.json")
    [one] = [one for one in [*found["variants"], *found["equal_time"]] if one["name"] == variant]
    cells = [f"{one['top1_mean'][rate]:.2%} ± {one['top1_stdev'][rate] * 100:.2f}" for rate in ("1.0", "0.4")]
    time = "1" if variant == found["reference"] else f"{one['time_ratio']:.3f}"
    assert f"| {row} | {time} | {' | '.join(cell.replace('%', '') for cell in cells)} |" in README.read_text()


def test_the_rates_of_loaders_are_those_of_the_raw_result() -> None:
    found = result("loader_real_photographs.json")
    rate = {one["contender"]: f"{one['images_per_s']['median']:,.0f}" for one in found["data_sets"]["photographs"]}
    rows = {
        "this one, keep 0.2 (addressable JPEGs)": f"{rate['ours, random, keep 0.2']} "
        f"({rate['ours, addressable, random, keep 0.2']})",
        "this one, keep 1 (addressable JPEGs)": f"{rate['ours, random, keep 1']} "
        f"({rate['ours, addressable, random, keep 1']})",
        "by hand: libjpeg-turbo, OpenCV `linear`, which aliases": rate["hand-written, OpenCV linear"],
        "by hand: libjpeg-turbo, OpenCV `area`": rate["hand-written, OpenCV area"],
        "webdataset with torchvision v2": rate["webdataset and torchvision v2"],
        "timm on WebDataset shards": rate["timm, WebDataset"],
    }
    text = README.read_text()
    assert [row for row, figure in rows.items() if f"| {row} | {figure} |" not in text] == []
    assert f"whole image resized ({rate['ours, without selection']} images/s)" in text
    ratio = {
        one["rate_of"]: one["ratio"]["median"]
        for one in found["ratios"]
        if one.get("which_is", one["over"]) == "hand-written, OpenCV linear"
    }
    assert f"level with this one ({ratio['ours, random, keep 1']:.2f} times)" in text
    assert f"this one is {ratio['ours, random, keep 0.2']:.2f}\ntimes as fast" in text
    assert f"on addressable JPEGs {ratio['ours, addressable, random, keep 0.2']:.2f} times" in text


def test_the_speed_of_a_step_is_that_of_the_raw_result() -> None:
    steps = {one["way"]: one for one in result("step.json")["steps"] if one["num_kept"] == 38}
    text = README.read_text()
    assert f"is {steps['ours']['speed_over_timm']['median']:.1f} times as fast as timm's full step" in text
    assert f"takes {steps['patch_drop_rate']['speed_of_ours_over_this']['median']:.2f} times as long" in text
