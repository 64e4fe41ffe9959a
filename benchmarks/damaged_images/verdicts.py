"""The three verdicts on every file, and where they contradict one another."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.damaged_images.shards import DamagedFile

# Of the conversion.
KEPT, ANEW, REJECTED = "kept", "encoded anew", "rejected"
# Of the check of shards that hold the file as it is, by index and verify.
PASSES, FAULT = "passes", "a fault"
# Of the loader on those shards.
READS, BAD, CRASH = "reads", "bad", "a crash"

DEAD_END = "the check passes what the loader cannot use"
DISAGREE = "the conversion keeps what the check faults, or the other way round"
CONVERTED_FAULT = "what the conversion wrote has a fault"
CONVERTED_BAD = "what the conversion wrote is bad to the loader"


@dataclass(frozen=True)
class Verdicts:
    """On one file. converted: what is wrong with what the conversion wrote of it, empty if nothing is."""

    conversion: str
    check: str
    loader: str
    reason: str
    converted: str = ""

    @property
    def finding(self) -> str:
        """How they contradict one another; empty where they do not."""
        if CRASH in (self.conversion, self.check, self.loader):
            return CRASH
        if self.check == PASSES and self.loader != READS:
            return DEAD_END
        if (self.conversion == KEPT) != (self.check == PASSES):
            return DISAGREE
        return self.converted


def summed_up(files: Sequence[DamagedFile], verdicts: Sequence[Verdicts]) -> dict[str, Any]:
    """Verdicts in all, by kind of file, and by format and kind of damage; every finding."""
    by_file: dict[str, Counter[str]] = {}
    by_kind: dict[str, dict[str, Counter[str]]] = {}
    findings, reasons = [], Counter[str]()
    for one, verdict in zip(files, verdicts, strict=True):
        outcome = f"{verdict.conversion}, {verdict.check}, {verdict.loader}"
        by_file.setdefault(one.file, Counter())[outcome] += 1
        by_kind.setdefault(one.format, {}).setdefault(one.kind, Counter())[outcome] += 1
        if verdict.conversion == ANEW:
            reasons[verdict.reason] += 1
        if verdict.finding:
            findings.append(
                {
                    "number": one.number,
                    "file": one.file,
                    "kind": one.kind,
                    "finding": verdict.finding,
                    **asdict(verdict),
                }
            )
    total = sum(by_file.values(), Counter[str]())
    return {
        "outcomes": dict(total.most_common()),
        "unseen_by_the_loader": sum(one.check == FAULT and one.loader == READS for one in verdicts),
        "findings": findings,
        "encoded_anew": dict(reasons.most_common()),
        "files": {name: dict(counts.most_common()) for name, counts in by_file.items()},
        "kinds": {
            name: {kind: dict(counts.most_common()) for kind, counts in kinds.items()}
            for name, kinds in by_kind.items()
        },
    }
