"""What a tool prints for programs: JSON on standard output and nothing besides, whatever libraries write there."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from launching import python_module
from PIL import Image

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from tools.command import answer, only_printed, show
from tools.inspect.__main__ import main as inspect
from tools.schedule.__main__ import main as schedule
from tools.shards.__main__ import main as shards
from tools.study.__main__ import main as study

STUDY = """
name: toy
base: {base}
seeds: [0]
reference: full
variants: {{full: {{about: all patches}}}}
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration, its shards, images and a study."""
    folder = tmp_path_factory.mktemp("toy")
    config = write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / "images" / name / "1.png")
    (folder / "study.yaml").write_text(STUDY.format(base=config))
    return folder


@pytest.fixture
def noisy_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a tool makes its JSON, something writes to standard output as libraries and processes do."""
    make = json.dumps

    def dumps(*arguments: Any, **settings: Any) -> str:
        os.write(1, b"Setting accelerator to CPU\n")
        return make(*arguments, **settings)

    monkeypatch.setattr(json, "dumps", dumps)


@pytest.mark.usefixtures("noisy_libraries")
@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (schedule, ["--config", "TOY/toy.yaml"]),
        (inspect, ["--config", "TOY/toy.yaml", "--step", "0"]),
        (study, ["TOY/study.yaml", "--out", "TOY/out", "--show"]),
        (shards, ["stats", "TOY/shards"]),
        (shards, ["verify", "TOY/shards", "--workers", "1"]),
        (shards, ["units", "TOY/shards", "--workers", "1"]),
        (shards, ["index", "TOY/shards"]),
        (shards, ["convert", "--source", "imagefolder:TOY/images", "--out", "TOY/converted", "--workers", "1"]),
        (shards, ["readdress", "TOY/shards", "--out", "TOY/again", "--workers", "1"]),
    ],
    ids=["schedule", "inspect", "study", "stats", "verify", "units", "index", "convert", "readdress"],
)
def test_json_stands_alone_on_standard_output(
    main: Callable[[list[str]], int], arguments: list[str], toy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*(one.replace("TOY", str(toy)) for one in arguments), "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)
    assert "Setting accelerator" in captured.err


def test_json_stands_alone_though_deepspeed_tells_of_a_missing_gpu(toy: Path) -> None:
    done = python_module("tools.schedule", "--config", toy / "toy.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total_steps"] == 24


def test_faults_of_an_index_are_no_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train-000000.tar").write_bytes(b"no tar at all" * 100)
    assert shards(["index", str(tmp_path), "--json"]) == 2
    assert capfd.readouterr().out == ""


def test_a_study_that_is_shown_writes_nothing(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study([str(toy / "study.yaml"), "--out", str(tmp_path / "out"), "--show"]) == 0
    assert capsys.readouterr().out == "no run is finished yet\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("main", [schedule, inspect, study, shards])
def test_help_is_on_standard_output_and_ends_with_an_example(
    main: Callable[[list[str]], int], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    captured = capfd.readouterr()
    assert (ended.value.code, captured.err) == (0, "")
    assert captured.out.startswith("usage: python -m tools.")
    assert "\nexample:\n  python -m tools." in captured.out


@pytest.mark.parametrize(
    "command", ["convert", "readdress", "merge", "resize-levels", "index", "units", "verify", "stats", "score"]
)
def test_every_command_of_shards_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        shards([command, "--help"])
    assert f"\nexample:\n  python -m tools.shards {command} " in capsys.readouterr().out


def test_an_argument_that_cannot_be_used_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert schedule(["--config", "run.yaml", "--png", "picture.svg"]) == 2
    assert shards(["stats"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: argument --png: this writes a .png file, got picture.svg; see --help"
    assert second == "error: the following arguments are required: DIR; see --help"


def interrupted() -> str:
    raise KeyboardInterrupt


def test_ctrl_c_while_a_command_line_is_read_is_one_line_and_130(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        answer(interrupted, str)
    assert (ended.value.code, capfd.readouterr().err) == (130, "error: interrupted\n")


def test_ctrl_c_in_a_tool_is_one_line_and_130(capfd: pytest.CaptureFixture[str]) -> None:
    assert show(interrupted) == 130
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "error: interrupted\n")


def test_a_tool_that_comes_to_want_dali_says_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.installed.DALI_BUILDS", {})

    def wanting() -> str:
        raise ModuleNotFoundError("No module named 'nvidia'", name="nvidia")

    assert show(wanting) == 2
    assert capfd.readouterr().err.startswith("error: NVIDIA DALI is not installed; install one of its builds")


def test_what_was_printed_is_put_out_though_an_error_follows(capfd: pytest.CaptureFixture[str]) -> None:
    with suppress(ValueError), only_printed():
        print("found so far")
        raise ValueError("a fault")
    assert capfd.readouterr().out == "found so far\n"
