"""The driver that a machine has, and the one that it needs."""

import pytest

from tools.acceptance.environment import CHECKS, check_branch, driver_of, look_around

PROC = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)
GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)
"""


def test_the_drivers_version_is_read_from_the_kernel() -> None:
    assert driver_of(PROC) == "580.95.05"
    with pytest.raises(ValueError, match="no version of a driver"):
        driver_of("nothing")


def test_a_driver_of_the_branch_or_newer_is_enough() -> None:
    check_branch("580.95.05", "13.0")
    check_branch("590.1", "13.2")
    check_branch("535.104", "12.8")
    with pytest.raises(ValueError, match=r"the driver is 570.1, and CUDA 13.0 needs R580 or newer"):
        check_branch("570.1", "13.0")
    with pytest.raises(ValueError, match="built for the processor alone"):
        check_branch("580.95.05", None)


def test_without_a_gpu_the_machine_is_looked_at_and_the_rest_is_named() -> None:
    found = look_around(on_gpu=False)
    assert found["machine"]["cores"] >= 1
    assert found["left_out"] == [name for name, (_, needs_gpu) in CHECKS.items() if needs_gpu]
    assert not found["is_worthless"]


def test_a_check_that_fails_is_a_problem_and_the_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict:
        raise RuntimeError("torch sees no GPU")

    monkeypatch.setattr("tools.acceptance.environment.CHECKS", {"torch": (broken, True), "machine": (dict, False)})
    found = look_around(on_gpu=True)
    assert found["problems"] == ["torch: RuntimeError: torch sees no GPU"]
    assert found["machine"] == {}
    assert found["is_worthless"]


def test_what_the_other_stages_can_do_without_stops_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict:
        raise FileNotFoundError("no nvidia-smi")

    monkeypatch.setattr("tools.acceptance.environment.CHECKS", {"driver": (broken, True)})
    found = look_around(on_gpu=True)
    assert found["problems"] == ["driver: FileNotFoundError: no nvidia-smi"]
    assert not found["is_worthless"]
