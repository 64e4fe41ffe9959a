import subprocess
import sys

import pytest

from benchmarks.shared.shell import ROOT, environment
from engine.ranks.freed_memory import keep_freed_memory

# Steps as training has them: blocks are taken and given back, again and again. Prints the pages that the last ones got.
_STEPS = """
import ctypes, resource
from engine.ranks.freed_memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def step():
    blocks = [libc.malloc(ctypes.c_size_t(2**20)) for _ in range(64)]
    for block in blocks:
        ctypes.memset(block, 1, 2**20)
    for block in reversed(blocks):
        libc.free(block)

def pages():
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 4

print(pages(), keep_freed_memory(), pages())
"""


def test_what_a_step_frees_is_there_for_the_next_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STEPS], cwd=ROOT, env=environment(), check=True, capture_output=True, text=True
    )
    before, was_set, after = done.stdout.split()
    assert was_set == "True"
    assert int(before) > 64 * 2**20 / 2**12 / 2
    assert int(after) < 64


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_a_user_set_goes_before_it(name: str) -> None:
    assert not keep_freed_memory({name: "1"})
