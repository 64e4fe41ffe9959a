"""What ``engine.compile`` needs of a machine beside PyTorch, looked for before anything is built."""

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

# By the model's kind of device: the language that its kernels' launchers or loops are compiled from, the variable that
# names a compiler, and the programs that are looked for without it. Triton's on a GPU, inductor's on the processor.
_COMPILERS = {"cuda": ("C", "CC", ("gcc", "clang")), "cpu": ("C++", "CXX", ("g++",))}


def check_can_compile(device_type: str, headers: Path | None = None) -> None:
    """Look for a compiler and for Python's headers.

    Args:
        device_type: ``cuda`` or ``cpu``, where the model is.
        headers: the folder of Python's headers, by default of this one's.

    Raises:
        ValueError: one of them is missing; says what to install.
    """
    language, variable, programs = _COMPILERS[device_type]
    named = os.environ.get(variable)
    looked_for = [shlex.split(named)[0]] if named else list(programs)
    if not any(map(shutil.which, looked_for)):
        whose = f"{variable} names {named}, which is not here" if named else f"there is no {' or '.join(programs)}"
        raise ValueError(
            f"engine.compile needs a {language} compiler, but {whose}: install one (Debian, Ubuntu: apt-get install "
            f"build-essential), or name one by {variable}; or set engine.compile: false"
        )
    headers = _headers() if headers is None else headers
    if not (headers / "Python.h").is_file():
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        raise ValueError(
            f"engine.compile needs Python's headers, but there is no {headers / 'Python.h'}: install them (Debian, "
            f"Ubuntu: apt-get install {version}-dev); or set engine.compile: false"
        )


def _headers() -> Path:
    """Where PyTorch and Triton look: Debian's scheme for what is installed locally is another one."""
    scheme = sysconfig.get_default_scheme()
    return Path(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme))
