"""Starting ranks as a user does, through the ``deepspeed`` launcher."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS_IN_ONE_LAUNCH = Path(__file__).parent / "engine" / "runs_in_one_launch.py"


def environment() -> dict[str, str]:
    """The environment of a shell in which the project's virtual environment is active."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def deepspeed(ranks: int, *arguments: str | Path, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    """Run ``deepspeed ARGUMENTS`` on ``ranks`` ranks from the project's root and wait for it."""
    command = ["deepspeed", "--quiet", "--no_local_rank", "--num_accelerators", str(ranks)]
    command += ["--master_port", str(free_port()), *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False
    )


def run_jobs(ranks: int, jobs: list[list[str]], folder: Path) -> tuple[list[int], str]:
    """Several command lines of engine.train in one launch: their exit codes, and what was printed altogether."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = deepspeed(ranks, RUNS_IN_ONE_LAUNCH, folder / "jobs.json", folder / "results.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "results.json").read_text()), done.stdout + done.stderr
