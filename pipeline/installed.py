"""Which of DALI's builds is installed, and whether NVIDIA's driver fits it and PyTorch. Imports neither of them."""

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path

# DALI's builds by the package's name: the CUDA that each is made for, and the group of pyproject.toml that installs it.
DALI_BUILDS = {"nvidia-dali-cuda120": (12, "cuda12"), "nvidia-dali-cuda130": (13, "cuda13")}
# The oldest branch of NVIDIA's driver for every release of one CUDA (their table of minor version compatibility).
DRIVERS = {12: "R525", 13: "R580"}

_TORCH_PAGE = "https://pytorch.org/get-started/locally"
_ROOT = Path("/")
_HIDING = ("-1", "NoDevFiles")  # the latter is Slurm's, for jobs that asked for no GPU
_TO_USE_THE_PROCESSOR = "set CUDA_VISIBLE_DEVICES= (to nothing) to use the processor"


def dali_build() -> str:
    """The package name of DALI's installed build.

    Raises:
        ValueError: there is none, or there are two, which overwrite each other's files.
    """
    return one_build([name for name in DALI_BUILDS if _installed(name)])


def one_build(builds: list[str]) -> str:
    """The one of some installed builds of DALI. Raises what ``dali_build`` raises."""
    if len(builds) == 1:
        return builds[0]
    commands = "; ".join(
        f"pip install '.[{group}]' where the driver is for CUDA {cuda} ({DRIVERS[cuda]} or newer)"
        for cuda, group in sorted(DALI_BUILDS.values(), reverse=True)
    )
    choice = f"{commands}; without a GPU either"
    if builds:
        raise ValueError(
            f"{' and '.join(builds)} are both installed, and overwrite each other's files: pip uninstall "
            f"{' '.join(builds)}, then install one of them, in the project's folder: {choice}"
        )
    raise ValueError(f"NVIDIA DALI is not installed; install one of its builds, in the project's folder: {choice}")


def without_dali(error: ImportError) -> str | None:
    """What to say of an import that failed because DALI is not installed; None where it failed for anything else."""
    if (error.name or "").split(".")[0] != "nvidia":
        return None
    try:
        dali_build()
    except ValueError as problem:
        return str(problem)
    return None


def driver_cuda() -> int | None:
    """The newest CUDA that this machine's driver runs, as 1000 * major + 10 * minor; None where there is no driver."""
    try:
        found = ctypes.c_int(0)
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found))
    except (OSError, AttributeError):
        return None
    return None if failed or not found.value else found.value


def driver_version(root: Path = _ROOT) -> str | None:
    """The version of the driver that the kernel has loaded, such as ``580.65.06``; None where it has loaded none."""
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", (root / "proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return None if found is None else found[0]


def num_gpus_here(root: Path = _ROOT) -> int:
    """NVIDIA's GPUs that the kernel shows to this process, whether or not CUDA can use them."""
    listed = len(list((root / "proc/driver/nvidia/gpus").glob("*")))
    return listed or len(list((root / "dev").glob("nvidia[0-9]*")))


def hides_gpus(environment: Mapping[str, str]) -> bool:
    """Whether ``CUDA_VISIBLE_DEVICES`` says that no GPU is wanted: it is empty, or begins with -1."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and (not visible.strip() or visible.split(",")[0].strip() in _HIDING)


def check_driver(driver: int | None, torch_cuda: str | None, dali: str, environment: Mapping[str, str]) -> None:
    """A driver that is there runs what PyTorch and DALI were built for, so that no GPU stands idle unnoticed.

    Args:
        driver: of ``driver_cuda``.
        torch_cuda: of ``torch.version.cuda``, such as ``13.0``; None of a PyTorch built for the processor.
        dali: of ``dali_build``.
        environment: where an empty ``CUDA_VISIBLE_DEVICES``, or -1, says that no GPU is wanted.

    Raises:
        ValueError: the driver is too old for one of them.
    """
    if driver is None or torch_cuda is None or hides_gpus(environment):
        return
    dali_cuda, _ = DALI_BUILDS[dali]
    needed = max(int(torch_cuda.split(".")[0]), dali_cuda)
    if driver // 1000 >= needed:
        return
    fitting = next((group for cuda, group in DALI_BUILDS.values() if cuda == driver // 1000), None)
    branch = f", {DRIVERS[needed]} or newer" if needed in DRIVERS else ""
    packages = (
        ""
        if fitting is None
        else (
            f"; or install what fits this driver: PyTorch for CUDA {driver // 1000} by {_TORCH_PAGE}, then, in the "
            f"project's folder, pip uninstall {dali} and pip install '.[{fitting}]'"
        )
    )
    raise ValueError(
        f"this machine's NVIDIA driver is for CUDA {driver // 1000}.{driver % 1000 // 10}, but the installed PyTorch "
        f"(for CUDA {torch_cuda}) and {dali} need one for CUDA {needed}{branch} (nvidia-smi shows it): renew the "
        f"driver{packages}; or {_TO_USE_THE_PROCESSOR}"
    )


def check_cuda(num_gpus: int, torch_cuda: str | None, driver: int | None, environment: Mapping[str, str]) -> None:
    """Told where PyTorch sees no GPU, after ``check_driver``: fine where none is here or none is wanted.

    Args:
        num_gpus: of ``num_gpus_here``.
        torch_cuda, driver, environment: as for ``check_driver``.

    Raises:
        ValueError: GPUs are here and stand idle; says what is in the way, as far as it can be told.
    """
    if not num_gpus or hides_gpus(environment):
        return
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if torch_cuda is None:
        reason = f"the installed PyTorch is not built for CUDA: install the build for this driver by {_TORCH_PAGE}"
    elif driver is None:
        reason = (
            "libcuda.so.1, a part of NVIDIA's driver, is not found: on the machine itself install the driver, "
            f"{DRIVERS[max(DRIVERS)]} or newer; start a container with all of it (docker run --gpus all, and "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
        )
    else:
        named = "" if visible is None else f"does CUDA_VISIBLE_DEVICES ({visible}) name one of them, "
        reason = (
            f"CUDA does not start ({why_cuda_fails() or 'it does not say why'}): {named}does nvidia-smi work here, are "
            "/dev/nvidia* open to this user, and does nvidia-fabricmanager run on a machine with NVSwitch"
        )
    raise ValueError(
        f"{num_gpus} NVIDIA GPU(s) are here, but PyTorch can use none: {reason}; or {_TO_USE_THE_PROCESSOR}"
    )


def why_cuda_fails() -> str | None:
    """The driver's own words for what keeps CUDA from starting, such as ``system not yet initialized``; None: nothing.

    It tries to start CUDA, and so serves where that has failed already.
    """
    text = ctypes.c_char_p()
    try:
        library = ctypes.CDLL("libcuda.so.1")
        code = library.cuInit(0)
        library.cuGetErrorString(code, ctypes.byref(text))
    except (OSError, AttributeError):
        return None
    return f"{(text.value or b'error').decode()}, {code}" if code else None


def _installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version  # here, for it takes as long as the rest of --help

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
