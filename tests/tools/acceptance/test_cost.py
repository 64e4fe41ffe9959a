"""What an update costs, read out of a trace that is made up here."""

from typing import Any

from tools.acceptance.cost import Cost, costs, milliseconds, problems_of, typical


def event(cat: str, name: str, ts: float, dur: float, correlation: int | None = None, tid: int = 1) -> dict[str, Any]:
    args = {} if correlation is None else {"correlation": correlation}
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid, "args": args}


TRACE = [
    {"ph": "M", "name": "process_name"},
    event("user_annotation", "step", 100, 50),
    event("gpu_user_annotation", "step", 130, 900),
    event("cpu_op", "aten::_fused_adamw_", 101, 20),
    event("cpu_op", "aten::empty", 102, 1),  # within the one before it
    event("cuda_runtime", "cudaLaunchKernel", 103, 2, 7),
    event("kernel", "adamw", 500, 300, 7),
    event("cpu_op", "aten::item", 125, 20),
    event("cpu_op", "aten::_local_scalar_dense", 126, 18),
    event("cuda_runtime", "cudaMemcpyAsync", 127, 1, 8),
    event("gpu_memcpy", "Memcpy DtoH", 810, 100, 8),
    event("cuda_runtime", "cudaStreamSynchronize", 129, 14),
    event("cuda_runtime", "cudaLaunchKernel", 90, 2, 6),  # before the step
    event("kernel", "backward", 200, 250, 6),
    event("user_annotation", "step", 2000, 10),
    event("cpu_op", "aten::add", 2001, 5),
    event("cuda_driver", "cuLaunchKernel", 2002, 1, 9),
    event("kernel", "triton", 2010, 40, 9),
]


def test_a_step_is_charged_with_what_the_host_did_in_it_and_with_the_kernels_it_launched() -> None:
    first, second = costs(TRACE, "step")
    assert first == Cost(2, 1, {"cudaStreamSynchronize": 1}, 2, 0.4, 0.05)
    assert second == Cost(1, 1, {}, 1, 0.04, 0.01)


def test_a_name_that_was_not_recorded_costs_nothing() -> None:
    assert costs(TRACE, "backward") == []


def test_operations_of_two_threads_do_not_hide_one_another() -> None:
    two = [event("user_annotation", "step", 0, 99), event("cpu_op", "a", 1, 50), event("cpu_op", "b", 2, 10, tid=2)]
    [cost] = costs(two, "step")
    assert cost.operations == 2


def test_the_typical_one_is_in_the_middle_and_times_are_medians() -> None:
    found = [Cost(number, 0, {}, 0, float(number), 10.0 - number) for number in (1, 2, 3)]
    assert typical(found) == found[1]
    assert milliseconds(found) == {"host_ms": 8.0, "device_ms": 2.0}


def test_too_many_operations_and_any_wait_are_problems_at_zero_0_and_waits_are_none_under_zero() -> None:
    busy = Cost(451, 3, {"cudaStreamSynchronize": 2}, 3, 1.0, 1.0)
    assert problems_of(busy, "bf16", 0) == [
        "bf16: 451 operations in an update; 100 are enough",
        "bf16: an update waits 2 times for the device",
    ]
    assert problems_of(busy, "bf16", 1) == ["bf16: 451 operations in an update; 450 are enough"]
    assert problems_of(Cost(100, 3, {}, 3, 1.0, 1.0), "bf16", 0) == []
