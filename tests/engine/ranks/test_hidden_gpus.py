from pathlib import Path

import pytest

from engine.ranks import hidden_gpus
from engine.ranks.hidden_gpus import hide_as_asked, launcher_environments

HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
COMMANDS = {
    3: ["/bin/bash"],
    5: ["/venv/bin/python", "/venv/bin/deepspeed", "--module", "engine.train"],
    7: ["/venv/bin/python", "-u", "-m", "deepspeed.launcher.launch", "--module", "engine.train"],
}


@pytest.mark.parametrize(
    "environment", [{"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}, {"DS_ACCELERATOR": "cpu"}]
)
def test_either_word_for_the_processor_says_it_to_torch_and_to_deepspeed(environment: dict[str, str]) -> None:
    hide_as_asked(environment, [])
    assert environment == HIDDEN


@pytest.mark.parametrize("launchers", [[{"CUDA_VISIBLE_DEVICES": ""}], [{}, {"CUDA_VISIBLE_DEVICES": "-1"}]])
def test_what_a_launcher_was_not_to_see_its_ranks_do_not_see(launchers: list[dict[str, str]]) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "0,1", "LOCAL_RANK": "1"}  # as deepspeed numbers two ranks
    hide_as_asked(environment, launchers)
    assert environment == {**HIDDEN, "LOCAL_RANK": "1"}


@pytest.mark.parametrize("launchers", [[], [{}], [{"CUDA_VISIBLE_DEVICES": "0,1"}]])
def test_where_nothing_hides_them_nothing_changes(launchers: list[dict[str, str]]) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "0,1"}
    hide_as_asked(environment, launchers)
    assert environment == {"CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for pid in COMMANDS:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "environ").write_bytes(b"PID=%d\0CUDA_VISIBLE_DEVICES=\0A=b=c\0" % pid)
    monkeypatch.setattr(hidden_gpus, "command_line", lambda pid: COMMANDS.get(pid, []))
    return tmp_path


@pytest.mark.parametrize(("above", "seen"), [([7, 5, 3], ["7", "5"]), ([7, 3], ["7"]), ([3, 5], []), ([], [])])
def test_the_launchers_own_environments_are_read_and_no_shells(
    processes: Path, above: list[int], seen: list[str]
) -> None:
    found = launcher_environments(above, processes)
    assert [one["PID"] for one in found] == seen
    assert all(one["CUDA_VISIBLE_DEVICES"] == "" and one["A"] == "b=c" for one in found)


def test_a_launcher_that_has_gone_says_nothing(processes: Path) -> None:
    (processes / "7" / "environ").unlink()
    assert launcher_environments([7], processes) == [{}]
