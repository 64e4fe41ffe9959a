"""How the loops over pixels are compiled, and where numba finds again what it has compiled.

numba's cache looks at the file that a function stands in, and not at those of the functions that it calls. So compiled
code is kept in a folder whose name is a digest of all kernel sources: code of an older kernel is never found.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_PACKAGE = Path(__file__).parent


def kernels_digest(package: Path = _PACKAGE) -> str:
    """SHA-256 over the names and contents of all files in folders named ``kernels``, and of this file."""
    digest = hashlib.sha256()
    kernels = {str(path.relative_to(package)): path for path in package.rglob("kernels/**/*.py")}
    for name, path in sorted({**kernels, "": Path(__file__)}.items()):
        digest.update(f"{name}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _cache_folder() -> Path:
    """Beside the sources, as Python keeps its own compiled files, or the user's cache where that cannot be written."""
    beside = _PACKAGE / "__pycache__"
    writable = os.access(beside if beside.exists() else _PACKAGE, os.W_OK)
    users = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "patch-sampling-trainer"
    return (beside if writable else users) / f"kernels-{kernels_digest()[:16]}"


if "NUMBA_CACHE_DIR" not in os.environ:
    numba.config.CACHE_DIR = str(_cache_folder())


def is_first_start() -> bool:
    """Whether nothing has been compiled yet of these kernels, so that the first batch takes up to a minute."""
    return not any(Path(numba.config.CACHE_DIR).rglob("*.nbi"))


# Nothing is reassociated, so that the bits are the same on any number of threads. Loops instead of assignments to
# slices in what is compiled: the latter bring along code for errors that takes longest to compile.
compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(cache=True, nogil=True, error_model="numpy")
