"""Who is gone and who is stuck, from signs of life."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

from engine.ranks.heartbeat import (
    Beat,
    StallJudge,
    beat_path,
    describe_loss,
    first_beat,
    has_fallen_silent,
    is_gone,
    log_path,
    log_tail,
    open_log,
    read_beats,
    write_beat,
)
from engine.ranks.processes import find_process


def beat(rank: int, phase: str = "step", step: int = 812, phase_s: float = 0.0, count: int = 0) -> Beat:
    return Beat("abcd", rank, f"host-{rank // 2}", "elsewhere", 100 + rank, 5, step, phase, phase_s, count)


def test_beats_read_back_as_they_were_written(tmp_path: Path) -> None:
    beats = [beat(0), beat(3, "loader", phase_s=2.5, count=7)]
    for each in beats:
        write_beat(tmp_path, each)
    assert read_beats(tmp_path, "abcd") == {0: beats[0], 3: beats[1]}


def test_beats_of_another_start_and_broken_files_count_for_nothing(tmp_path: Path) -> None:
    write_beat(tmp_path, beat(0))
    beat_path(tmp_path, 1).write_text("{")
    beat_path(tmp_path, 2).write_text(json.dumps({"rank": 2}))
    assert read_beats(tmp_path, "another") == {}
    assert list(read_beats(tmp_path)) == [0]


def test_a_process_that_ended_without_a_word_is_gone() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = find_process(child.pid)
    assert process is not None
    of_child = replace(first_beat("abcd", 1), pid=process.pid, started=process.started)
    assert not is_gone(of_child)
    assert is_gone(replace(of_child, started=process.started - 1))  # its number was given to another process
    child.kill()
    child.wait()
    assert is_gone(of_child)
    assert not is_gone(replace(of_child, phase="stopped"))
    assert not is_gone(replace(of_child, machine="elsewhere"))  # nobody can see that from here


def test_this_process_is_not_gone() -> None:
    assert not is_gone(first_beat("abcd", 0))


def test_a_rank_elsewhere_has_fallen_silent_when_its_counter_stands_still() -> None:
    assert has_fallen_silent(beat(0, count=3), beat(0, count=3))
    assert not has_fallen_silent(beat(0, count=3), beat(0, count=4))
    assert not has_fallen_silent(beat(0, count=3), beat(0, "failed", count=3))


def test_the_tail_of_a_log_is_that_of_this_start(tmp_path: Path) -> None:
    for launch, text in (("old", "an old error\n"), ("abcd", "")):
        log = open_log(tmp_path, replace(beat(3), launch=launch))
        os.write(log, text.encode())
        os.close(log)
    assert log_tail(tmp_path, beat(3)) == []
    with log_path(tmp_path, 3).open("a") as file:
        file.writelines(f"line {number}\n" for number in range(100))
    assert log_tail(tmp_path, beat(3)) == [f"line {number}" for number in range(60, 100)]
    assert log_tail(tmp_path, beat(4)) == []


def test_a_loss_is_described_with_what_the_rank_did_last() -> None:
    log = Path("ranks/rank-00003.log")
    killed = describe_loss(beat(3, "loader", phase_s=4), [], log)
    assert killed.startswith("rank 3 (host-1, process 103) is gone; it was last seen in phase loader of step 812, 4 s")
    assert "kill -9" in killed
    assert describe_loss(beat(3), ["Fatal Python error: Bus error"], log).endswith(
        f"{log} ends with:\nFatal Python error: Bus error"
    )
    assert "failed in step 812" in describe_loss(beat(3, "failed"), ["ValueError: x"], log)


def judged(beats: list[Beat], after_s: float = 300) -> list[str]:
    return StallJudge(after_s).judge(beats, now=0)


def test_nobody_is_named_before_the_time_is_over() -> None:
    assert judged([beat(rank, phase_s=299) for rank in range(4)]) == []


def test_the_rank_that_the_others_wait_for_is_named_and_they_are_not() -> None:
    beats = [beat(rank, phase_s=301) for rank in range(3)] + [beat(3, "loader", phase_s=302)]
    assert judged(beats) == ["stalled: rank 3 (host-1, process 103) has been in phase loader of step 812 for 302 s"]


def test_a_rank_a_step_behind_is_named() -> None:
    beats = [beat(0, "loader", 813, 400), beat(1, "step", 812, 401)]
    assert judged(beats) == ["stalled: rank 1 (host-0, process 101) has been in phase step of step 812 for 401 s"]


def test_ranks_that_stand_at_the_same_place_are_named_together_and_at_most_four_by_name() -> None:
    [line] = judged([beat(rank, phase_s=301 + rank) for rank in range(10)])
    assert "rank 3 (host-1, process 103) and 6 more have been in phase step of step 812 for 310 s" in line
    assert "rank 4" not in line


def test_whoever_still_moves_is_waited_for() -> None:
    assert judged([beat(0, phase_s=400), beat(1, "loader", phase_s=10)]) == []


def test_a_rank_that_has_ended_is_no_stalled_rank() -> None:
    assert judged([beat(0, "done", phase_s=400)]) == []


def test_a_stall_is_reported_again_at_growing_intervals_until_it_is_over() -> None:
    judge = StallJudge(300)
    said_at = [s for s in range(0, 3000, 10) if judge.judge([beat(0, phase_s=s, count=s)], now=s)]
    assert said_at == [300, 600, 1200, 2400]
    assert judge.judge([beat(0, "step", 813, 0, 1)], now=3000) == []
    assert judge.judge([beat(0, "step", 813, 301, 2)], now=3301)


def test_a_rank_without_a_sign_of_life_is_named_by_the_readers_clock_and_covers_those_who_wait() -> None:
    judge = StallJudge(300)
    lines = []
    for s in range(0, 700, 10):  # rank 0 has waited for a little longer than rank 1 has been silent
        lines += judge.judge([beat(0, phase_s=s + 10, count=s), beat(1)], now=s)
    who = "stalled: rank 1 (host-0, process 101) has given no sign of life"
    assert lines == [f"{who} for {s} s, last seen in phase step of step 812" for s in (300, 600)]
