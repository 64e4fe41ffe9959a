"""The scripts that start runs on clusters, with a launcher and a scheduler that only play their parts."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepspeed.launcher.runner import fetch_hostfile

from benchmarks.shared.shell import ROOT, environment

CLUSTER = ROOT / "tools" / "cluster"
NODE, SLURM, HOSTS, BOUND_SSH = (CLUSTER / name for name in ("node.sh", "slurm.sbatch", "hosts.sh", "bound/ssh"))

# A launcher as deepspeed is one: runner, launch, rank. It notes its arguments, and the rank ends with 75 on SIGUSR1.
FAKE_DEEPSPEED = """
if [ "$1" = launch ]; then
    python3 -c "$FAKE_RANK" & wait $!
else
    printf '%s\\n' "$@" > "$NOTES/arguments"
    while [ "$1" != --hostfile ]; do shift; done
    cp "$2" "$NOTES/hostfile"
    if [ -n "$ENDS_WITH" ]; then exit "$ENDS_WITH"; fi
    "$0" launch & wait $!
fi
"""

FAKE_RANK = """
import os, pathlib, signal, time
signal.signal(signal.SIGUSR1, lambda *_: os._exit(75))
pathlib.Path(os.environ["NOTES"], "rank-is-up").touch()
time.sleep(60)
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder in which the fake programs write down what they were asked; they are in its ``bin``."""
    write_program(tmp_path / "bin" / "deepspeed", FAKE_DEEPSPEED)
    return tmp_path


def write_program(path: Path, shell: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{shell}\n")
    path.chmod(0o755)


def start(notes: Path, script: Path, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    # A copy of the script in a project whose virtual environment holds the fake programs.
    copy = notes / "project" / "tools" / "cluster" / script.name
    if not copy.parent.exists():
        shutil.copytree(CLUSTER, copy.parent)
        (notes / "project" / ".venv").mkdir()
        (notes / "project" / ".venv" / "bin").symlink_to(notes / "bin")
    mine = environment()
    mine |= {"PATH": f"{notes / 'bin'}{os.pathsep}{mine['PATH']}", "NOTES": str(notes), "ENDS_WITH": ""}
    mine["FAKE_RANK"] = FAKE_RANK
    return subprocess.Popen(["bash", copy, *arguments], env=mine | variables, cwd=notes / "project")


def node_variables(**more: str) -> dict[str, str]:
    return {"NUM_NODES": "3", "NODE_RANK": "1", "RANKS_PER_NODE": "4", "MASTER_ADDR": "host-a", **more}


@pytest.mark.parametrize("script", [NODE, SLURM, HOSTS, BOUND_SSH], ids=lambda path: path.name)
def test_scripts_have_no_fault_that_a_linter_sees(script: Path) -> None:
    linter = ["shellcheck"] if shutil.which("shellcheck") else ["bash", "-n"]
    done = subprocess.run([*linter, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_node_is_started_without_ssh_and_its_exit_code_is_the_runs(notes: Path) -> None:
    process = start(notes, NODE, "--config", "a file.yaml", **node_variables(ENDS_WITH="2"))
    assert process.wait(20) == 2
    arguments = (notes / "arguments").read_text().splitlines()
    for words in (["--no_ssh", "--node_rank", "1"], ["--master_addr", "host-a", "--master_port", "29500"]):
        at = arguments.index(words[0])
        assert arguments[at : at + len(words)] == words
    assert arguments[-4:] == ["--module", "engine.train", "--config", "a file.yaml"]
    assert (notes / "hostfile").read_text() == "node-0 slots=4\nnode-1 slots=4\nnode-2 slots=4\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_a_node_reaches_its_ranks_and_their_code_comes_back(notes: Path, number: int) -> None:
    process = start(notes, NODE, **node_variables())
    wait_for(notes / "rank-is-up")
    process.send_signal(number)
    assert process.wait(20) == 75


def test_a_node_that_is_not_told_its_number_says_so(notes: Path) -> None:
    variables = node_variables()
    del variables["NODE_RANK"]
    assert start(notes, NODE, **variables).wait(20) != 0
    assert not (notes / "arguments").exists()


@pytest.mark.parametrize(("code", "queued_again"), [(0, False), (1, False), (2, False), (75, True)])
def test_slurm_queues_a_job_again_only_if_it_was_stopped(notes: Path, code: int, queued_again: bool) -> None:
    write_program(notes / "bin" / "srun", 'while [[ "$1" == --* ]]; do shift; done; SLURM_NODEID=0 exec "$@"')
    write_program(
        notes / "bin" / "scontrol",
        'if [ "$1" = show ]; then printf "host-a\\nhost-b\\n"; else echo "$@" > "$NOTES/requeued"; fi',
    )
    slurm = {"SLURM_SUBMIT_DIR": str(notes / "project"), "SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "host-[a-b]"}
    slurm |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8", "ENDS_WITH": str(code)}
    assert start(notes, SLURM, "--config", "x.yaml", **slurm).wait(20) == code
    assert (notes / "requeued").exists() == queued_again
    if queued_again:
        assert (notes / "requeued").read_text() == "requeue 41\n"
    assert (notes / "hostfile").read_text() == "node-0 slots=8\nnode-1 slots=8\n"
    assert "20041" in (notes / "arguments").read_text().splitlines()


def test_the_hosts_of_a_hostfile_are_started_with_ssh_and_pdsh_that_end_with_the_launcher(notes: Path) -> None:
    hostfile = str(CLUSTER / "hostfile.example")
    assert start(notes, HOSTS, "--config", "x.yaml", HOSTFILE=hostfile, ENDS_WITH="2").wait(20) == 2
    arguments = (notes / "arguments").read_text().splitlines()
    assert "--no_ssh" not in arguments
    assert arguments[-4:] == ["--module", "engine.train", "--config", "x.yaml"]
    assert (notes / "hostfile").read_text() == Path(hostfile).read_text()


@pytest.mark.parametrize("name", ["ssh", "pdsh"])
def test_a_connection_ends_when_what_started_it_is_killed(tmp_path: Path, name: str) -> None:
    write_program(tmp_path / "bin" / name, f"echo $$ > {tmp_path}/{name} && exec sleep 60")
    bound = CLUSTER / "bound"
    path = os.pathsep.join([str(bound), str(tmp_path / "bin"), os.environ["PATH"]])
    caller = subprocess.Popen(["bash", "-c", f"{name} host-a & wait"], env={**os.environ, "PATH": path})
    wait_for(tmp_path / name)
    connection = Path("/proc") / (tmp_path / name).read_text().strip() / "cmdline"
    deadline = time.monotonic() + 20
    while not connection.read_bytes():  # for a moment, while one program makes way for another
        assert time.monotonic() < deadline
    caller.kill()
    caller.wait()
    while connection.exists() and connection.read_bytes():  # a zombie has no command line
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kubernetes() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_pods_of_kubernetes_know_their_number_and_where_to_meet() -> None:
    service, job = kubernetes()["Service"], kubernetes()["Job"]
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert job["spec"]["completionMode"] == "Indexed"
    assert variables["NUM_NODES"] == str(job["spec"]["completions"]) == str(job["spec"]["parallelism"])
    assert int(variables["RANKS_PER_NODE"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert variables["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == job["spec"]["template"]["metadata"]["labels"]
    assert os.access(ROOT / container["command"][0], os.X_OK)
    assert (ROOT / container["args"][1]).is_file()
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_kubernetes_tries_again_after_a_stop_and_gives_up_on_bad_input_and_divergence() -> None:
    rules = kubernetes()["Job"]["spec"]["podFailurePolicy"]["rules"]
    actions = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    assert actions == {75: "Ignore", 2: "FailJob", 4: "FailJob"}
    assert json.dumps(kubernetes())  # plain values only


def test_the_example_hostfile_is_one() -> None:
    assert dict(fetch_hostfile(str(CLUSTER / "hostfile.example"))) == {"host-a": 8, "host-b": 8}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.02)
