"""Lines that a person should see once, whatever the number of ranks and of times that they come up."""

import os
import sys

_told: set[str] = set()


def tell_once(line: str) -> None:
    """Print a line to stderr if this process has not printed it before; of the ranks of a host only one does."""
    if line in _told or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    _told.add(line)
    print(line, file=sys.stderr, flush=True)
