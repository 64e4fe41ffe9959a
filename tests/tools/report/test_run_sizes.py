"""A run whose images follow a schedule of sizes: its page says which, and shows them over the steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import tostring

import pytest

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.config import load_config
from tools.report.files import RunFiles
from tools.report.run import report_run
from tools.report.run_pictures import draw_schedule

SPEED = {"step_s": 0.5, "loader_wait_s": 0.1, "images_per_s": 32.0, "bytes_per_image": 100.0, "keep_rate": 1.0}
BY_STEPS = "{kind: steps, values: [[0, 8], [0.5, 16]]}"


def line(step: int, image_size: int) -> dict[str, Any]:
    sizes = {"image_size": image_size, "patch_size": 4, "num_kept": (image_size // 4) ** 2}
    facts = {"event": "train", "step": step, "interval_steps": 1, "at_s": 0.5 * step, "loss": 1.0, "lr": 0.1}
    return facts | SPEED | sizes


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    (tmp_path / "shards").mkdir()
    write_toy_config(tmp_path / "toy.yaml", write_toy_shards(tmp_path / "shards"))
    settings = ["schedule.kind=constant", "schedule.keep_rate=1.0", "schedule.cooldown=0steps"]
    config = load_config(tmp_path / "toy.yaml", [*settings, f"schedule.image_size={BY_STEPS}"])
    stages = [{"keep_rate": 1.0, "num_kept": (size // 4) ** 2, "image_size": size, "patch_size": 4} for size in (8, 16)]
    profile = {"stages": [stage | {"loader_images_per_s": 100.0} for stage in stages]}
    return RunFiles(tmp_path, config, [line(0, 8), line(1, 8), line(2, 16)], [], None, [], profile)


def test_its_page_says_the_sizes_of_the_schedule_and_of_profiled_stages(run: RunFiles) -> None:
    report = report_run(run)
    assert "by the step it was trained on images of 8 to 16 pixels (steps)" in report.findings[0]
    [profile] = [content for title, content in report.sections if title == "Profile"]
    shown = "".join(tostring(part, encoding="unicode") for part in profile if not hasattr(part, "name"))
    assert "image / patch, pixels" in shown
    assert "8 / 4" in shown
    assert "16 / 4" in shown


def test_its_schedule_is_drawn_with_the_sizes_that_change(run: RunFiles) -> None:
    pictures = {picture.name: picture for picture in draw_schedule(run)}
    assert list(pictures) == ["keep-rate", "image-size", "learning-rate"]
    assert pictures["image-size"].caption == "The side of the image: between 8 and 16 pixels."


def test_one_size_throughout_and_runs_that_told_none_have_no_such_picture(run: RunFiles) -> None:
    told_none = [{key: value for key, value in one.items() if "_size" not in key} for one in run.train]
    for train in ([line(0, 16), line(1, 16)], told_none):
        pictures = draw_schedule(replace(run, train=train))
        assert [picture.name for picture in pictures] == ["keep-rate", "learning-rate"]
