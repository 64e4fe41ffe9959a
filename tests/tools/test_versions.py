import json
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.shared.shell import ROOT
from pipeline.installed import DALI_BUILDS
from tools.versions import (
    ENDS,
    ENVIRONMENTS,
    PAGE,
    PYTHONS,
    RESULTS,
    Environment,
    Outcome,
    files_of,
    find_python,
    lowest,
    main,
    page_with,
    read_junit,
    read_outcomes,
    requirements,
    table,
    try_environment,
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.lower().replace("_", "-").split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line
)
JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_fine"/>
<testcase classname="tests.test_a" name="test_wrong[1]"><failure message="assert 1 == 2">...</failure></testcase>
<testcase classname="tests.test_a" name="test_broken"><error message="no fixture">...</error></testcase>
<testcase classname="tests.test_b" name="test_left"><skipped message="needs jpegtran">...</skipped></testcase>
<testcase classname="tests.test_b" name="test_left_too"><skipped message="needs jpegtran">...</skipped></testcase>
</testsuite></testsuites>"""
WELL = Outcome(
    "python3.11-lowest-cuda12",
    packages={"python": "3.11.7", "nvidia-dali-cuda120": "2.0.0"}
    | dict.fromkeys(("torch", "deepspeed", "timm", "numpy", "numba", "pillow"), "1.0"),
    tests="those that start no processes",
    counts={"passed": 3, "failed": 0, "skipped": 1},
    loss=2.25,
)


@pytest.mark.parametrize("requirement", requirements(ROOT / "pyproject.toml"), ids=str)
def test_every_range_holds_the_version_that_make_setup_installs(requirement: Requirement) -> None:
    assert requirement.specifier
    name = requirement.name.lower().replace("_", "-")
    if name in {"nvidia-dali-cuda120", "wandb"}:  # setup installs neither
        assert name not in PINS
    else:
        assert requirement.specifier.contains(PINS[name])


@pytest.mark.parametrize("requirement", [Requirement(line) for line in PROJECT["dependencies"]], ids=str)
def test_what_the_project_needs_is_a_range_with_both_ends(requirement: Requirement) -> None:
    operators = [part.operator for part in requirement.specifier if part.operator != "!="]
    assert sorted(operators) == ["<", ">="]


def test_setup_takes_dali_for_cuda_13_and_plain_pip_takes_none() -> None:
    assert any("cuda13" in Requirement(line).extras for line in PROJECT["optional-dependencies"]["dev"])
    assert not DALI_BUILDS.keys() & {Requirement(line).name for line in PROJECT["dependencies"]}


@pytest.mark.parametrize("build", DALI_BUILDS)
def test_the_group_that_a_message_names_installs_that_build(build: str) -> None:
    _, group = DALI_BUILDS[build]
    assert [Requirement(line).name for line in PROJECT["optional-dependencies"][group]] == [build]


def test_every_python_that_is_allowed_is_tried_at_both_ends() -> None:
    allowed = Requirement(f"x{PROJECT['requires-python']}").specifier
    assert [minor for minor in range(8, 20) if allowed.contains(f"3.{minor}")] == [
        int(python.removeprefix("3.")) for python in PYTHONS
    ]
    assert {(one.python, one.end) for one in ENVIRONMENTS.values()} == {(p, e) for p in PYTHONS for e in ENDS}


def test_the_lower_ends_are_pins_and_what_is_pinned_already_is_none() -> None:
    found = [Requirement("torch>=2.11.0,<2.15"), Requirement("ruff==0.17.6"), Requirement("numpy<3,>=2.2.0")]
    assert lowest(found) == ["torch==2.11.0", "numpy==2.2.0"]


def test_the_project_itself_is_none_of_its_requirements() -> None:
    names = [one.name for one in requirements(ROOT / "pyproject.toml")]
    assert PROJECT["name"] not in names
    assert {"torch", *DALI_BUILDS, "pytest"} <= set(names)


def test_files_that_start_processes_are_left_out_where_they_are_not_wanted(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    plain, starting = tmp_path / "room" / "test_plain.py", tmp_path / "test_starting.py"
    plain.write_text("def test_it() -> None: ...")
    starting.write_text("from launching import python_module")
    (tmp_path / "helper.py").write_text("")
    assert files_of(tmp_path, starting_processes=False) == [plain]
    assert files_of(tmp_path, starting_processes=True) == [plain, starting]
    assert files_of(plain, starting_processes=True) == [plain]


def test_what_failed_is_named_and_why_others_were_skipped_is_counted() -> None:
    counts, failed, skipped = read_junit(JUNIT)
    assert counts == {"passed": 1, "failed": 2, "skipped": 2}
    assert failed == ["tests.test_a::test_wrong[1]", "tests.test_a::test_broken"]
    assert skipped == {"needs jpegtran": 2}


def test_the_table_has_a_row_for_each_environment_also_for_those_that_were_left() -> None:
    left = Outcome("python3.12-newest-cuda13", problem="python3.12 is not here")
    rows = table([WELL, left]).splitlines()
    assert rows[2] == (
        "| 3.11.7, lowest | 2.0.0 (`cuda12`) | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 "
        "| those that start no processes: 3 passed, 1 skipped | 2.2500 |"
    )
    assert rows[3].startswith("| 3.12, newest | python3.12 is not here |")
    assert len({row.count("|") for row in rows}) == 1


def test_the_page_holds_the_table_of_the_raw_result() -> None:
    outcomes = read_outcomes((ROOT / RESULTS).read_text())
    page = (ROOT / PAGE).read_text()
    assert page == page_with(page, outcomes), "python -m tools.versions"
    assert all(one.is_well for one in outcomes)


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="has not one place for the table"):
        page_with("# Install\n", [WELL])


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("python3.11-lowest-cuda12", problem="pip could not install it", loss=1.0),
        Outcome("python3.11-lowest-cuda12", failed=["tests.test_a::test_wrong"], loss=1.0),
        Outcome("python3.11-lowest-cuda12"),
    ],
    ids=["a problem", "a test that failed", "no training"],
)
def test_not_everything_was_well(outcome: Outcome) -> None:
    assert not outcome.is_well


def test_a_python_that_is_not_here_is_told(tmp_path: Path) -> None:
    assert find_python("3.999") is None
    assert try_environment(Environment("3.999", "lowest"), tmp_path).problem == "python3.999 is not here"


def test_outcomes_are_read_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PAGE).parent.mkdir(parents=True)
    (tmp_path / RESULTS).parent.mkdir(parents=True)
    (tmp_path / PAGE).write_text("<!-- python -m tools.versions -->\nold\n<!-- end -->\n")
    monkeypatch.chdir(tmp_path)
    left = Outcome("python3.13-newest-cuda13", problem="python3.13 is not here")
    for name, outcome in {"3.13": left, "3.11": WELL}.items():
        monkeypatch.setattr("tools.versions.try_environment", lambda *_, outcome=outcome: outcome)
        (tmp_path / "build" / "versions" / outcome.environment).mkdir(parents=True)
        assert main([outcome.environment]) == (0 if name == "3.11" else 1)
    assert read_outcomes(RESULTS.read_text()) == [WELL, left]
    assert json.loads(RESULTS.read_text())["environments"][0]["packages"]["torch"] == "1.0"
    rows = PAGE.read_text().splitlines()
    assert set(table([WELL, left]).splitlines()) <= set(rows)
    assert "| 3.12, lowest | not run |" in PAGE.read_text()
    assert "old" not in rows
    assert [path.name for path in Path("build/versions").iterdir()] == [left.environment]  # to look into


def test_an_environment_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["python3.13"]) == 2
    assert "python3.13: the environments are python3.11-lowest-cuda12" in capsys.readouterr().err
