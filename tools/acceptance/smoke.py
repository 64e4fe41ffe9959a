"""The smoke runs, in processes side by side, and what their losses say. Loads nothing that is slow."""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tools.acceptance import judging
from tools.acceptance.runs import SmokeRun, Task, lanes_of, tasks_of
from tools.acceptance.sizes import SIZES, Size

Made = dict[str, dict[str, Any]]  # what ``lane.make_runs`` writes of a task, by its name
_LONGEST_REMARK = 300


def smoke(size_name: str, photographs: Path, folder: Path, *, on_gpu: bool) -> dict[str, Any]:
    """Make all runs that this machine can, and judge them.

    Args:
        folder: where processes write what they print.

    Returns:
        ``runs``, ``precisions``, ``resumed``, ``left_out`` (names) and ``problems``; ``is_worthless`` where no run at
        all came to its end.
    """
    size = SIZES[size_name]
    tasks, unable = tasks_of(size, on_gpu=on_gpu)
    lanes = lanes_of(tasks, size.num_lanes)
    with ThreadPoolExecutor(len(lanes)) as pool:
        jobs = [
            pool.submit(_lane, lane, size_name, photographs, folder / f"lane-{number}")
            for number, lane in enumerate(lanes)
        ]
    made: Made = {name: one for job in jobs for name, one in job.result().items()}
    return judged(tasks, made, size) | {"left_out": [task.name for task in unable]}


def judged(tasks: Sequence[Task], made: Made, size: Size) -> dict[str, Any]:
    """What ``smoke`` returns, but for ``left_out``."""
    runs, went_on, losses = [], [], dict[SmokeRun, list[float]]()
    for task in tasks:
        one = made[task.name]
        problem = one.get("problem")
        if problem is None and task.in_two:
            went_on.append(judging.resumed(task.name, one["losses"], one["losses_in_two"]))
            continue
        if problem is None:
            problem = judging.problem_of_losses(one["losses"], size.num_steps)
        if problem is None:
            losses[task.run] = one["losses"]
        runs.append(
            {
                "run": task.name,
                "seconds": one.get("seconds"),
                "losses": one.get("losses", []),
                "problem": None if problem is None else f"{task.name}: {problem}",
            }
        )
    precisions = judging.precisions(losses)
    return {
        "runs": runs,
        "precisions": precisions,
        "resumed": went_on,
        "problems": [one["problem"] for one in (*runs, *precisions, *went_on) if one["problem"] is not None],
        "is_worthless": not losses,
    }


def _lane(tasks: Sequence[Task], size_name: str, photographs: Path, stem: Path) -> Made:
    """Runs in a process of their own; behind one that ends it, the others are made in another."""
    out, log = stem.with_suffix(".jsonl"), stem.with_suffix(".txt")
    out.unlink(missing_ok=True)
    made: Made = {}
    remaining = list(tasks)
    while remaining:
        names = ",".join(task.name for task in remaining)
        command = [sys.executable, "-m", "tools.acceptance", "lane", "--runs", names, "--out", str(out)]
        command += ["--size", size_name, "--photographs", str(photographs)]
        with log.open("a") as printed:
            code = subprocess.run(command, stdout=printed, stderr=subprocess.STDOUT, check=False).returncode
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        made |= {line["task"]: line for line in lines}
        remaining = [task for task in remaining if task.name not in made]
        if remaining:
            failed = remaining.pop(0)
            made[failed.name] = {"problem": f"its process ended with code {code}: {last_words(log.read_text())}"}
    return made


def last_words(printed: str) -> str:
    """The last line that a process printed, cut where it is long."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return lines[-1][:_LONGEST_REMARK] if lines else "it printed nothing"
