"""What the smoke runs' processes left, judged."""

from tools.acceptance.runs import RESUMED, RUNS, Task
from tools.acceptance.sizes import SIZES
from tools.acceptance.smoke import judged, last_words

SIZE = SIZES["quick"]
FALLING = [2.0 - 0.05 * step for step in range(SIZE.num_steps)]
TASKS = [Task(RUNS[0]), Task(RUNS[1]), Task(RESUMED[0], in_two=True)]


def made(**more: list[float]) -> dict:
    return {"losses": FALLING, "seconds": 1.0, **more}


def test_runs_that_came_to_their_end_are_compared() -> None:
    found = judged(TASKS, {t.name: made(**({"losses_in_two": FALLING} if t.in_two else {})) for t in TASKS}, SIZE)
    assert found["problems"] == []
    assert not found["is_worthless"]
    assert [one["run"] for one in found["precisions"]] == [RUNS[1].name]
    assert [one["exact"] for one in found["resumed"]] == [True]


def test_a_run_whose_process_ended_is_a_problem_and_the_others_count() -> None:
    ended = {"problem": "its process ended with code 1: RuntimeError: out of memory"}
    found = judged(TASKS[:2], {TASKS[0].name: ended, TASKS[1].name: made()}, SIZE)
    assert found["problems"] == [f"{RUNS[0].name}: its process ended with code 1: RuntimeError: out of memory"]
    assert found["precisions"] == []
    assert not found["is_worthless"]


def test_no_run_that_came_to_its_end_makes_the_rest_worthless() -> None:
    ended = {"problem": "its process ended with code 1: no GPU"}
    assert judged(TASKS, {task.name: ended for task in TASKS}, SIZE)["is_worthless"]


def test_the_last_words_of_a_process_are_its_last_line() -> None:
    assert last_words("Traceback\n  File\nRuntimeError: no\n\n") == "RuntimeError: no"
    assert last_words("\n") == "it printed nothing"
    assert len(last_words("x" * 1000)) == 300
