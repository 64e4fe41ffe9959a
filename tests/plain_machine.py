"""What compiled code computes where the processor has nothing that not every one has."""

import os
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent / "pipeline" / "graph"


def on_a_plain_machine(module: str, function: str, cache: Path) -> str:
    """What the function of a test module returns in a process that compiles it for such a processor."""
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(cache)}
    told = subprocess.run(
        [sys.executable, "-c", f"import {module}; print({module}.{function}())"],
        env=os.environ | plain | {"PYTHONPATH": os.pathsep.join([*sys.path, str(_FOLDER)])},
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()
