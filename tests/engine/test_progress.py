import pytest
from worlds import ALONE, SECOND_OF_TWO

from engine.progress import Progress

LINE = {"epoch": 0, "keep_rate": 0.4, "num_kept": 19, "loss": 1.5, "lr": 1e-3, "images_per_s": 100.0}


def test_a_plain_line_tells_the_time_left_at_the_rate_so_far(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("engine.progress.time.monotonic", lambda: now)
    progress = Progress(100, 300, ALONE)
    now += 50.0  # for 50 steps; 150 are left
    progress.show({**LINE, "step": 149, "step_s": 1.0, "loader_wait_s": 0.1, "device_idle_s": 0.02})
    now += 150.0
    progress.show({**LINE, "step": 299, "step_s": 1.0, "loader_wait_s": 0.1, "device_idle_s": 0.02})
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("step 150/300 (02:30 left)  epoch 0  keep 0.4 (19 patches)")
    assert last.startswith("step 300/300  epoch 0")
    assert last.endswith("loader wait 10%  idle 2%")


def test_sizes_that_follow_a_schedule_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    line = {**LINE, "step": 9, "step_s": 1.0, "loader_wait_s": 0.1, "device_idle_s": 0.02}
    Progress(0, 10, ALONE, with_sizes=True).show({**line, "image_size": 160, "patch_size": 16})
    assert "  keep 0.4 (19 patches of 160 / 16 pixels)  loss 1.500" in capsys.readouterr().out


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(0, 10, SECOND_OF_TWO).show({**LINE, "step": 9, "step_s": 1.0, "loader_wait_s": 0.1, "device_idle_s": 0.02})
    assert capsys.readouterr().out == ""
