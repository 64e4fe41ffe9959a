import pytest

from pipeline.installed import DALI_BUILDS, DRIVERS, check_driver, dali_build, driver_cuda, one_build, without_dali

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
