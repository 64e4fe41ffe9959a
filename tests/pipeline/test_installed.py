from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.installed import (
    DALI_BUILDS,
    DRIVERS,
    check_cuda,
    check_driver,
    dali_build,
    driver_cuda,
    driver_version,
    hides_gpus,
    num_gpus_here,
    one_build,
    why_cuda_fails,
    without_dali,
)

CUDA12, CUDA13 = "nvidia-dali-cuda120", "nvidia-dali-cuda130"


def test_the_tests_run_with_one_build() -> None:
    assert dali_build() in DALI_BUILDS


@pytest.mark.parametrize("name", DALI_BUILDS)
def test_whichever_build_is_installed_is_the_one(name: str) -> None:
    assert one_build([name]) == name


def test_without_dali_the_commands_are_told_with_the_drivers_they_need() -> None:
    with pytest.raises(ValueError, match="NVIDIA DALI is not installed") as raised:
        one_build([])
    for cuda, group in DALI_BUILDS.values():
        assert f"pip install '.[{group}]' where the driver is for CUDA {cuda} ({DRIVERS[cuda]} or newer)" in str(
            raised.value
        )
    assert "\n" not in str(raised.value)


def test_two_builds_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match=f"both installed.*pip uninstall {CUDA12} {CUDA13}, then install one"):
        one_build([CUDA12, CUDA13])


def test_an_import_that_fails_for_something_else_is_not_put_down_to_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ModuleNotFoundError("No module named 'nvidia.dali'", name="nvidia.dali")
    assert without_dali(missing) is None  # it is installed here, so it is broken and says so itself
    monkeypatch.setattr("pipeline.installed.DALI_BUILDS", {})
    assert "is not installed" in (without_dali(missing) or "")
    assert without_dali(ModuleNotFoundError("No module named 'timm'", name="timm")) is None
    assert without_dali(ImportError("a reason of its own")) is None


@pytest.mark.parametrize(
    ("driver", "torch_cuda", "dali"),
    [
        (None, "13.0", CUDA13),  # no driver: a CPU's machine
        (12040, None, CUDA13),  # a PyTorch for the processor uses no GPU
        (13000, "13.0", CUDA13),
        (13000, "13.2", CUDA13),  # releases of one CUDA share a driver
        (13000, "12.8", CUDA12),  # a driver runs what is older
        (12040, "12.8", CUDA12),
        (14000, "13.0", CUDA12),
    ],
)
def test_a_driver_that_fits_is_no_word_worth(driver: int | None, torch_cuda: str | None, dali: str) -> None:
    check_driver(driver, torch_cuda, dali, {})


def test_a_driver_too_old_is_told_with_the_one_that_is_needed_and_the_command() -> None:
    with pytest.raises(ValueError) as raised:
        check_driver(12040, "13.0", CUDA13, {"CUDA_VISIBLE_DEVICES": "0"})
    text = str(raised.value)
    assert "driver is for CUDA 12.4" in text
    assert f"PyTorch (for CUDA 13.0) and {CUDA13} need one for CUDA 13, R580 or newer" in text
    assert f"pip uninstall {CUDA13} and pip install '.[cuda12]'" in text
    assert "\n" not in text


def test_one_of_the_two_that_is_too_new_suffices() -> None:
    with pytest.raises(ValueError, match=f"PyTorch \\(for CUDA 12.8\\) and {CUDA13} need one for CUDA 13"):
        check_driver(12080, "12.8", CUDA13, {})
    with pytest.raises(ValueError, match=f"PyTorch \\(for CUDA 13.0\\) and {CUDA12} need one for CUDA 13"):
        check_driver(12080, "13.0", CUDA12, {})


def test_a_driver_that_no_build_fits_is_to_be_renewed() -> None:
    with pytest.raises(ValueError, match=r"CUDA 11\.8.*: renew the driver; or set CUDA_VISIBLE_DEVICES="):
        check_driver(11080, "12.8", CUDA12, {})


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_where_gpus_are_hidden_the_driver_is_no_matter(hidden: str) -> None:
    check_driver(12040, "13.0", CUDA13, {"CUDA_VISIBLE_DEVICES": hidden})


def test_a_machine_without_a_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", absent)
    assert driver_cuda() is None


@pytest.mark.parametrize("visible", ["", " ", "-1", "-1,0", "NoDevFiles"])
def test_gpus_can_be_hidden(visible: str) -> None:
    assert hides_gpus({"CUDA_VISIBLE_DEVICES": visible})


@pytest.mark.parametrize("environment", [{}, {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}])
def test_gpus_are_wanted_where_nothing_hides_them(environment: dict[str, str]) -> None:
    assert not hides_gpus(environment)


def with_gpus(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_gpus_that_the_kernel_shows_are_counted_without_cuda(tmp_path: Path) -> None:
    assert num_gpus_here(tmp_path) == 0
    devices = ("dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm")
    assert num_gpus_here(with_gpus(tmp_path, *devices)) == 2
    assert num_gpus_here(with_gpus(tmp_path, "proc/driver/nvidia/gpus/0000:1b:00.0")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:07:29 UTC 2025\nGCC version: 12.3.0",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)",
    ],
)
def test_the_driver_is_told_by_its_version(tmp_path: Path, text: str) -> None:
    assert driver_version(tmp_path) is None
    with_gpus(tmp_path, "proc/driver/nvidia/version").joinpath("proc/driver/nvidia/version").write_text(text)
    assert driver_version(tmp_path) == "580.65.06"


def test_no_gpu_here_or_none_wanted_is_no_word_worth() -> None:
    check_cuda(0, "13.0", None, {})
    check_cuda(8, "13.0", 13000, {"CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.parametrize(
    ("torch_cuda", "driver", "environment", "reason"),
    [
        (None, 13000, {}, "PyTorch is not built for CUDA: install the build for this driver by https://pytorch.org"),
        ("13.0", None, {}, r"libcuda.so.1.* is not found: .*, R580 or newer; .* \(docker run --gpus all"),
        ("13.0", 13000, {"CUDA_VISIBLE_DEVICES": "9"}, r"\(system .*\): does CUDA_VISIBLE_DEVICES \(9\) name one of"),
        ("13.0", 13000, {}, r"CUDA does not start \(system not yet initialized, 802\): .*nvidia-fabricmanager"),
    ],
)
def test_gpus_that_would_stand_idle_are_told_with_what_is_in_the_way(
    torch_cuda: str | None,
    driver: int | None,
    environment: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.installed.why_cuda_fails", lambda: "system not yet initialized, 802")
    with pytest.raises(ValueError, match=reason) as raised:
        check_cuda(8, torch_cuda, driver, environment)
    text = str(raised.value)
    assert text.startswith("8 NVIDIA GPU(s) are here, but PyTorch can use none: ")
    assert text.endswith("or set CUDA_VISIBLE_DEVICES= (to nothing) to use the processor")
    assert "\n" not in text


def test_what_the_driver_says_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(code: int, text: Any) -> int:
        text._obj.value = b"no CUDA-capable device is detected"
        return 0

    library = SimpleNamespace(cuInit=lambda flags: 100, cuGetErrorString=tell)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    assert why_cuda_fails() == "no CUDA-capable device is detected, 100"
    library.cuInit = lambda flags: 0
    assert why_cuda_fails() is None
