"""x"""

from benchmarks.faults.case import Case


def cases() -> list[Case]:
    return []
