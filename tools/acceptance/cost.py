"""What a part of a recorded trace costs: operations, launches, waits for the device, time. Pure."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Event = Mapping[str, Any]

# In the names of what the host calls of CUDA.
_LAUNCHES = ("LaunchKernel", "GraphLaunch")
_WAITS = ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize")
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")

# An update may take so many of torch's operations, by ZeRO stage: a few where weights are updated all at once.
MOST_OPERATIONS = {0: 100, 1: 450, 2: 450}
# ZeRO 0 waits for nothing; the others gather what they have updated, and may.
MOST_WAITS = {0: 0}


@dataclass(frozen=True)
class Cost:
    """One update.

    Attributes:
        operations: of torch, those within others not counted.
        launches: of kernels. waits: of the host for the device, by the name of what it called.
        kernels: and copies that ran on the device for it. device_ms: their time. host_ms: that of the whole update.
    """

    operations: int
    launches: int
    waits: dict[str, int]
    kernels: int
    device_ms: float
    host_ms: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def costs(events: Iterable[Event], name: str) -> list[Cost]:
    """Of each time that a range of this name (``record_function``) was recorded on the host.

    Args:
        events: ``traceEvents`` of a Chrome trace as torch's profiler writes it; times in microseconds.
    """
    complete = [event for event in events if event.get("ph") == "X"]
    ranges = [event for event in complete if event.get("cat") == "user_annotation" and event.get("name") == name]
    return [_cost(complete, event) for event in sorted(ranges, key=lambda event: event["ts"])]


def typical(found: Sequence[Cost]) -> Cost:
    """The one in the middle by its time on the host."""
    return sorted(found, key=lambda cost: cost.host_ms)[len(found) // 2]


def problems_of(cost: Cost, name: str, zero_stage: int) -> list[str]:
    """What an update does too much of, on a GPU."""
    problems = []
    if cost.operations > MOST_OPERATIONS[zero_stage]:
        problems.append(f"{name}: {cost.operations} operations in an update; {MOST_OPERATIONS[zero_stage]} are enough")
    waits = sum(cost.waits.values())
    if waits > MOST_WAITS.get(zero_stage, waits):
        problems.append(f"{name}: an update waits {waits} times for the device")
    return problems


def _cost(complete: Sequence[Event], whole: Event) -> Cost:
    inside = [event for event in complete if _is_inside(event, whole)]
    calls = [event for event in inside if event.get("cat") in ("cuda_runtime", "cuda_driver")]
    started = {event["args"]["correlation"] for event in calls if "correlation" in event.get("args", {})}
    on_device = [
        event
        for event in complete
        if event.get("cat") in _ON_DEVICE and event.get("args", {}).get("correlation") in started
    ]
    return Cost(
        operations=_outermost([event for event in inside if event.get("cat") == "cpu_op"]),
        launches=sum(any(part in event["name"] for part in _LAUNCHES) for event in calls),
        waits=dict(Counter(event["name"] for event in calls if any(part in event["name"] for part in _WAITS))),
        kernels=len(on_device),
        device_ms=sum(event["dur"] for event in on_device) / 1000,
        host_ms=whole["dur"] / 1000,
    )


def _is_inside(event: Event, whole: Event) -> bool:
    """Whether the host did it meanwhile. No other thread of it works during an update."""
    return (
        event is not whole and whole["ts"] <= event["ts"] and event["ts"] + event["dur"] <= whole["ts"] + whole["dur"]
    )


def _outermost(events: Sequence[Event]) -> int:
    """How many of them lie in no other of the same thread."""
    count, end_of = 0, dict[Any, float]()
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] >= end_of.get(event.get("tid"), -1.0):
            count += 1
            end_of[event.get("tid")] = event["ts"] + event["dur"]
    return count


def milliseconds(found: Sequence[Cost]) -> dict[str, float]:
    """The medians of both times."""
    return {
        "host_ms": statistics.median(cost.host_ms for cost in found),
        "device_ms": statistics.median(cost.device_ms for cost in found),
    }
