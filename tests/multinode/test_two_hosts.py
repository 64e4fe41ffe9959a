"""Runs over two hosts, and what goes wrong between hosts. Each case is bounded in time and leaves no process behind.

What must wait for DeepSpeed's smallest time limit, a minute, is started first and looked at last.
"""

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.shared.hosts import Host, deepspeed_command, two_hosts, wait_until, why_impossible, write_program
from benchmarks.shared.shard_files import write_tar
from benchmarks.shared.shell import ROOT
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from pipeline.shards.index import build_index

START_S = 400  # on a machine that does other things as well, two ranks take a while to start
# Long enough to be interrupted.
LONG_RUN = ["--set", "train.duration=120steps", "--set", "checkpoint.every=5steps"]
HAS_ELASTIC_RESUME = find_spec("engine.checkpoints.elastic") is not None
RANKS_FOLLOW_THEIR_LAUNCHER = find_spec("engine.ranks.launchers") is not None
RANKS_OF_THE_HOST_LEFT_OVER = [
    2,
    pytest.param(1, marks=pytest.mark.skipif(not HAS_ELASTIC_RESUME, reason="needs elastic resume")),
]

IMPOSSIBLE = why_impossible()
pytestmark = [
    pytest.mark.multinode,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(IMPOSSIBLE is not None, reason=f"two hosts on one machine: {IMPOSSIBLE}"),
]

# What host-b does before a run, what it does after it, and what the run's only error says.
FAULTS = {
    "other shards": (
        "mount --bind {toy}/other {toy}/data",
        "umount --lazy {toy}/data",
        ["data.train", "train-000001.tar", "on rank 0 (host-a)", "on rank 1 (host-b)"],
    ),
    "no data": (
        "mount -t tmpfs tmpfs {toy}/data",
        "umount --lazy {toy}/data",
        ["rank 1 (host-b): {toy}/data: neither tars nor an index"],
    ),
    "another configuration": (
        "mount --bind {toy}/other.yaml {toy}/toy.yaml",
        "umount --lazy {toy}/toy.yaml",
        ["different configurations", "optim.lr: 0.005 on rank 0 (host-a), 0.006 on rank 1 (host-b)"],
    ),
    "another version of DeepSpeed": (
        "mount --bind {toy}/METADATA {metadata}",
        "umount --lazy {metadata}",
        ["same software", "deepspeed: {version} on rank 0 (host-a), 0.0.1 on rank 1 (host-b)"],
    ),
    "other sources": (
        "mount --bind {toy}/losses.py {root}/engine/losses.py",
        "umount --lazy {root}/engine/losses.py",
        ["same software", "this project's sources: "],
    ),
    "a run folder that is not shared": (
        "mount -t tmpfs tmpfs {toy}/unshared",
        "umount --lazy {toy}/unshared",
        ["rank 1 (host-b): ", "{toy}/unshared/run is not the one that rank 0 (host-a) writes to"],
    ),
}
GOOD = {
    "one run": ("true", "true"),
    "a copy of the data on a disk of its own": ("mount --bind {toy}/copy {toy}/data", "umount --lazy {toy}/data"),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy shards in ``data``, a copy in ``copy``, and other ones in ``other``; and what else host-b may be given."""
    toy = tmp_path_factory.mktemp("multinode")
    write_toy_config(toy / "toy.yaml", write_toy_shards(toy / "data"))
    (toy / "other.yaml").write_text((toy / "toy.yaml").read_text().replace("lr: 0.005", "lr: 0.006"))
    for name in ("copy", "other"):
        shutil.copytree(toy / "data", toy / name)
    relabel(toy / "other" / "train-000001.tar")
    build_index(toy / "other", "train", sorted((toy / "other").glob("train-*.tar")))
    (toy / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.0.1\n")
    (toy / "losses.py").write_text((ROOT / "engine" / "losses.py").read_text() + "\n# changed on this host\n")
    (toy / "unshared").mkdir()
    return toy


def relabel(tar: Path) -> None:
    with tarfile.open(tar) as opened:
        members = [(member.name, opened.extractfile(member).read()) for member in opened]  # type: ignore[union-attr]
    write_tar(tar, [(name, b"0" if name.endswith(".cls") else data) for name, data in members])


def train(toy: Path, out: str, *more: str) -> list[str]:
    return ["--config", str(toy / "toy.yaml"), "--out", str(toy / out), *LONG_RUN, *more]


def digest(toy: Path, out: str) -> str:
    return json.loads((toy / out / "summary.json").read_text())["weights_digest"]


def finish(process: subprocess.Popen[str], timeout_s: float = START_S) -> tuple[int, str]:
    try:
        printed, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"still running after {timeout_s:g} s: {late.output!r}") from None
    return process.returncode, printed


def is_training(toy: Path, out: str, process: subprocess.Popen[str]) -> None:
    """Wait until the run is some steps past its first checkpoint."""
    lines = toy / out / "metrics.jsonl"

    def is_far_enough() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return lines.exists() and len(lines.read_text().splitlines()) > 8

    wait_until(is_far_enough, START_S)


def leaves_nothing(*hosts: Host) -> None:
    wait_until(lambda: not any(host.processes() for host in hosts), 60)


@pytest.fixture(scope="module")
def slow_ends(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list]]:
    """Two runs that end by time limits: one that finds its port taken, and one whose second host loses its cable."""
    folder = tmp_path_factory.mktemp("slow")
    with two_hosts(folder / "port", 1) as busy, two_hosts(folder / "cable", 1) as cut:
        listen = (
            "import socket, time; s = socket.create_server(('', 29500)); print('taken', flush=True); time.sleep(900)"
        )
        listener = busy[0].start("python", "-c", listen)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "taken\n"
        taken = [busy[0].start(*deepspeed_command(busy[0].folder, "--module", "engine.train", *train(toy, "taken")))]
        nodes = {"NUM_NODES": "2", "RANKS_PER_NODE": "1", "MASTER_ADDR": "host-a"}
        unplugged = [
            host.start("tools/cluster/node.sh", *train(toy, "unplugged"), NODE_RANK=str(number), **nodes)
            for number, host in enumerate(cut)
        ]
        is_training(toy, "unplugged", unplugged[0])
        cut[1].unplug()
        yield {"taken": [busy, taken], "unplugged": [cut, unplugged]}


@pytest.fixture(scope="module")
def runs(
    toy: Path, slow_ends: object, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """All of GOOD and FAULTS in one launch with pdsh: exit codes on both hosts by name, and the printed errors."""
    places = {
        "toy": toy,
        "root": ROOT,
        "metadata": Path(str(distribution("deepspeed")._path)) / "METADATA",  # type: ignore[attr-defined]
    }
    jobs = []
    for number, (name, (before, after, *_)) in enumerate((GOOD | FAULTS).items()):
        out = "unshared/run" if name == "a run folder that is not shared" else f"run{number}"
        jobs.append({"argv": train(toy, out), "before": before.format(**places), "after": after.format(**places)})
    (toy / "jobs.json").write_text(json.dumps(jobs))
    with two_hosts(tmp_path_factory.mktemp("hosts") / "runs") as (first, second):
        script = ROOT / "benchmarks" / "shared" / "runs_on_two_hosts.py"
        code, printed = finish(first.start(*deepspeed_command(first.folder, script, toy / "jobs.json", toy)))
        assert code == 0, printed
        leaves_nothing(first, second)
    codes = [json.loads((toy / f"{host}.json").read_text()) for host in ("host-a", "host-b")]
    errors = [line for line in printed.splitlines() if ": error: " in line]
    return dict(zip(GOOD | FAULTS, zip(*codes, strict=True), strict=True)), errors


def test_two_hosts_train_with_pdsh(toy: Path, runs: tuple[dict[str, tuple[int, int]], list[str]]) -> None:
    assert runs[0]["one run"] == (0, 0)
    assert json.loads((toy / "run0" / "summary.json").read_text())["steps"] == 120


def test_each_host_may_have_its_own_copy_of_the_data(
    toy: Path, runs: tuple[dict[str, tuple[int, int]], list[str]]
) -> None:
    assert runs[0]["a copy of the data on a disk of its own"] == (0, 0)
    assert digest(toy, "run1") == digest(toy, "run0")


@pytest.mark.parametrize("name", FAULTS)
def test_hosts_that_do_not_agree_end_with_one_error_that_names_them(
    toy: Path, runs: tuple[dict[str, tuple[int, int]], list[str]], name: str
) -> None:
    codes, errors = runs
    assert codes[name] == (2, 2)
    said = [text.format(toy=toy, version=distribution("deepspeed").version) for text in FAULTS[name][2]]
    assert len([line for line in errors if all(text in line for text in said)]) == 1, errors
    assert len(errors) == len(FAULTS)


@pytest.mark.usefixtures("runs")
def test_nothing_is_written_for_a_run_whose_hosts_do_not_agree(toy: Path) -> None:
    assert not (toy / "unshared" / "run").exists()
    assert [number for number in range(8) if (toy / f"run{number}").exists()] == [0, 1]


# Loaded by every Python that starts. A library that shifts the clock of whole processes breaks their timed waits.
FAST_CLOCK = """
import time
true_time, true_time_ns = time.time, time.time_ns
time.time = lambda: true_time() + 420
time.time_ns = lambda: true_time_ns() + 420 * 10**9
"""
SRUN = """
while [[ "$1" == --* ]]; do shift; done
export -p > "$SHARED/environment"
command="$(printf '%q ' "$@")"
number=0; tasks=()
for host in host-a host-b; do
    ssh "$host" "cd $PWD; source $SHARED/environment; export SLURM_NODEID=$number; source $SHARED/$host; $command" &
    tasks+=($!)
    number=$((number + 1))
done
code=0
for task in "${tasks[@]}"; do wait "$task"; last=$?; [ $last -gt $code ] && code=$last; done
exit $code
"""


@pytest.mark.usefixtures("runs")
def test_a_slurm_job_trains_the_same_while_clocks_are_minutes_apart(toy: Path, tmp_path: Path) -> None:
    """The script that is submitted, with srun and scontrol that only play their parts."""
    (tmp_path / "host-a").write_text("")
    (tmp_path / "host-b").write_text(f"export PYTHONPATH={tmp_path}:$PYTHONPATH\n")
    (tmp_path / "sitecustomize.py").write_text(FAST_CLOCK)
    with two_hosts(tmp_path / "hosts") as hosts:
        write_program(tmp_path / "hosts" / "bin" / "srun", SRUN)
        write_program(tmp_path / "hosts" / "bin" / "scontrol", "echo host-a; echo host-b")
        slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "host-[a-b]"}
        slurm |= {"SLURM_JOB_NUM_NODES": "2", "RANKS_PER_NODE": "1", "SHARED": str(tmp_path)}
        code, printed = finish(hosts[0].start("bash", "tools/cluster/slurm.sbatch", *train(toy, "slurm"), **slurm))
        assert code == 0, printed
        leaves_nothing(*hosts)
    assert "the clock of host-b is 4" in printed
    assert digest(toy, "slurm") == digest(toy, "run0")


@pytest.fixture(scope="module")
def killed(toy: Path, tmp_path_factory: pytest.TempPathFactory, runs: object) -> tuple[int, str]:
    """A run with pdsh, whose second host dies: its exit code and what it printed."""
    with two_hosts(tmp_path_factory.mktemp("hosts") / "killed") as (first, second):
        process = first.start(*deepspeed_command(first.folder, "--module", "engine.train", *train(toy, "killed")))
        is_training(toy, "killed", process)
        second.kill()
        ended = finish(process)
        leaves_nothing(first)
        return ended


def test_a_host_that_dies_ends_the_run_and_is_named(toy: Path, killed: tuple[int, str]) -> None:
    code, printed = killed
    assert code != 0
    # Gloo knows the address; a report of the lost rank has its name.
    said = [line for line in printed.splitlines() if line.startswith("host-a: ")]
    assert any("10.77.0.2" in line or "rank 1 (host-b" in line for line in said), printed
    assert not (toy / "killed" / "summary.json").exists()


@pytest.mark.usefixtures("killed")
@pytest.mark.skipif(not RANKS_FOLLOW_THEIR_LAUNCHER, reason="needs ranks that follow their launcher")
def test_a_launcher_that_is_killed_takes_the_ranks_of_all_hosts_with_it(toy: Path, tmp_path: Path) -> None:
    """And a run of another host that wants the run folder meanwhile is refused; afterwards the folder is free."""
    orphans = train(toy, "orphans", "--set", "train.duration=200000steps")
    with two_hosts(tmp_path / "hosts") as hosts:
        hostfile = str(tmp_path / "hosts" / "hostfile")
        process = hosts[0].start("tools/cluster/hosts.sh", *orphans, HOSTFILE=hostfile)
        is_training(toy, "orphans", process)
        code, printed = finish(hosts[1].start("python", "-m", "engine.train", *orphans, "--resume", "never"))
        assert code == 2, printed
        [error] = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert f"the run folder {toy}/orphans is in use by another run (host host-a, process " in error
        hosts[0].run("pkill", "-KILL", "-f", "bin/deepspeed --quiet")
        leaves_nothing(*hosts)
        assert finish(process)[0] != 0
    names = {entry.name for entry in (toy / "orphans").iterdir()}
    assert not names & {"summary.json", "run.lock", "earlier-1"}


@pytest.mark.parametrize("ranks", RANKS_OF_THE_HOST_LEFT_OVER)
@pytest.mark.usefixtures("killed")
def test_the_host_left_over_goes_on_alone(toy: Path, tmp_path: Path, ranks: int) -> None:
    shutil.copytree(toy / "killed", toy / f"alone{ranks}")
    with two_hosts(tmp_path / "hosts") as (first, _):
        command = ["deepspeed", "--quiet", "--no_local_rank", "--num_accelerators", str(ranks), "--module"]
        code, printed = finish(first.start(*command, "engine.train", *train(toy, f"alone{ranks}")))
    assert code == 0, printed
    assert "going on from" in printed
    lines = (toy / f"alone{ranks}" / "metrics.jsonl").read_text().splitlines()
    trained = [line["step"] for line in map(json.loads, lines) if line["event"] == "train"]
    assert trained == list(range(120))
    if ranks == 2:
        assert digest(toy, "alone2") == digest(toy, "run0")


def test_a_port_in_use_is_an_error_on_every_host(slow_ends: dict[str, list]) -> None:
    hosts, (process,) = slow_ends["taken"]
    code, printed = finish(process)
    errors = [line for line in printed.splitlines() if ": error: " in line]
    assert code == 2, printed
    assert len(errors) == 2
    assert any("rank 0 (host-a): port 29500" in line and "in use" in line for line in errors)
    assert any("rank 1 (host-b): the 2 ranks of the run did not meet at 10.77.0.1:29500" in line for line in errors)
    leaves_nothing(*hosts)


def test_a_cable_that_breaks_ends_the_run_on_both_hosts(toy: Path, slow_ends: dict[str, list]) -> None:
    hosts, processes = slow_ends["unplugged"]
    ended = [finish(process) for process in processes]
    printed = "".join(text for _, text in ended)
    assert all(code for code, _ in ended), printed
    # Whoever notices first says which address is silent.
    assert re.search(r"10\.77\.0\.[12]\]?:\d+: (Connection timed out|No route to host)|Timed out waiting", printed), (
        printed
    )
    assert not (toy / "unplugged" / "summary.json").exists()
    leaves_nothing(*hosts)
