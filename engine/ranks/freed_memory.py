"""Memory that a step frees is kept for the next one.

glibc gives freed memory at the top of its heap back to the system, and asks for it again in the next training step. The
system clears every page of it anew, and the step waits. How often goes by the chance of what lies where, so that a
run's steps took longer than the same steps in a profile.
"""

import ctypes
import os
from collections.abc import Mapping

# Of mallopt(3), by the name of the environment's variable that sets the same.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_PARAMETERS = {"MALLOC_TRIM_THRESHOLD_": _TRIM_THRESHOLD, "MALLOC_MMAP_THRESHOLD_": _MMAP_THRESHOLD}
# The most that stays unused at the top of a heap. No more than a step has needed is ever there.
_KEPT_BYTES = 2**31 - 1
# Larger blocks than this are always given back: glibc allows no higher threshold.
_LARGEST_KEPT_BLOCK_BYTES = 2**25


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Have this process keep what it frees, whatever threads it has. Of any other allocator than glibc's: nothing.

    Args:
        environment: one of glibc's own variables there goes before this, and nothing is set.

    Returns:
        Whether it was set.
    """
    if any(name in environment for name in (*_PARAMETERS, "GLIBC_TUNABLES")):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Setting either ends glibc's own guess at both.
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK_BYTES))
