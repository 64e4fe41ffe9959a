"""What a machine grants is read from files that look like Linux's."""

import os
from pathlib import Path

import pytest

from pipeline.cores import allowed_cores, bound_blas, granted_cores, loader_threads


def machine(root: Path, own: str, files: dict[str, str]) -> Path:
    """A root with ``/proc/self/cgroup`` and files of control groups."""
    for name, text in {"proc/self/cgroup": own, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_without_control_groups_grants_all(tmp_path: Path) -> None:
    assert granted_cores(tmp_path) is None
    assert allowed_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", None), ("400000 100000", 4), ("350000 100000", 3), ("50000 100000", 1)]
)
def test_version_2_grants_whole_cores_and_one_at_least(tmp_path: Path, limit: str, cores: int | None) -> None:
    root = machine(tmp_path, "0::/job\n", {"sys/fs/cgroup/job/cpu.max": limit})
    assert granted_cores(root) == cores


def test_the_tightest_group_above_holds(tmp_path: Path) -> None:
    groups = {"pod/box": "800000 100000", "pod": "300000 100000"}
    root = machine(tmp_path, "0::/pod/box\n", {f"sys/fs/cgroup/{name}/cpu.max": text for name, text in groups.items()})
    assert granted_cores(root) == 3


@pytest.mark.parametrize("own", ["0::/\n", "0::/../../other\n", "0::/a/path/of/the/host\n"])
def test_inside_a_container_its_own_group_is_the_mounted_one(tmp_path: Path, own: str) -> None:
    assert granted_cores(machine(tmp_path, own, {"sys/fs/cgroup/cpu.max": "200000 100000"})) == 2


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("quota", "cores"), [("-1", None), ("250000", 2)])
def test_version_1_has_quota_and_period_apart(tmp_path: Path, mount: str, quota: str, cores: int | None) -> None:
    own = "4:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n1:name=systemd:/docker/abc\n"
    folder = f"sys/fs/cgroup/{mount}/docker/abc"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}
    assert granted_cores(machine(tmp_path, own, files)) == cores


def test_affinity_and_groups_both_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "600000 100000"})
    for here, allowed in [(4, 4), (16, 6)]:
        monkeypatch.setattr("os.sched_getaffinity", lambda _, here=here: set(range(here)))
        assert allowed_cores(root) == allowed


def test_from_eight_cores_on_two_are_left_to_the_trainer_and_the_loader() -> None:
    assert [loader_threads(cores) for cores in (1, 2, 7, 8, 9, 16)] == [1, 2, 7, 6, 7, 14]


@pytest.mark.parametrize(("cores", "threads"), [(2, "2"), (64, "4")])
def test_blas_gets_a_few_threads_whatever_the_number_of_ranks(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: str
) -> None:
    monkeypatch.setattr("pipeline.cores.allowed_cores", lambda: cores)
    environment = {"LOCAL_SIZE": "8"}
    bound_blas(environment)
    assert environment == {"LOCAL_SIZE": "8", "OPENBLAS_NUM_THREADS": threads}


@pytest.mark.parametrize("name", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])
def test_threads_that_someone_has_chosen_stay(name: str) -> None:
    environment = {name: "1"}
    bound_blas(environment)
    assert environment == {name: "1"}
