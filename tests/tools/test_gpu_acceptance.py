"""The script that a person with a GPU runs, tried on a CPU from its first stage to its page."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.shared.shell import ROOT, environment
from tools.acceptance.page import STAGES

SCRIPT = ROOT / "tools" / "gpu_acceptance.sh"


def run(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=ROOT,
        env={**environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.mark.timeout(1800)
def test_a_dry_run_passes_every_stage_and_says_what_needs_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "acceptance"
    done = run("--dry-run", "--out", str(out), timeout_s=1790)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    outcomes = {stage["stage"]: stage["outcome"] for stage in summary["stages"]}
    assert outcomes == {**dict.fromkeys(STAGES, "passed"), "tests": "skipped"}
    assert summary["card"] == "no GPU"
    assert (out / "summary.md").read_text() in done.stdout
    assert "skipped, needs a GPU: driver, torch, dali, deepspeed" in done.stdout
    assert "on a CPU: counted, not judged" in done.stdout
    assert not list(out.rglob("*.tar")), "the drawn photographs are no raw result"


def test_what_cannot_be_used_is_one_line_and_help_names_every_stage(tmp_path: Path) -> None:
    for arguments, told in (
        (["--only", "smok"], f"error: no stage smok; there are {' '.join(STAGES)}; see --help\n"),
        (["--fast"], "error: unknown argument --fast; see --help\n"),
        (["--out"], "error: --out wants a value; see --help\n"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", told)
    assert f"of: {' '.join(STAGES)}" in run("--help").stdout


def test_the_script_is_sound() -> None:
    linter = ["shellcheck"] if shutil.which("shellcheck") else ["bash", "-n"]
    checked = subprocess.run([*linter, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
