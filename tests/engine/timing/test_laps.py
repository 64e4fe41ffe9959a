"""Clocks of the host and of a device that lags behind it, told by marks that pass when a test says so."""

import time

import pytest
import torch

from engine.timing import laps as laps_module
from engine.timing.laps import EventMark, HostMark, Laps


class LateDevice:
    """A device that has done its work up to a moment of its own clock; stands in for CUDA's events."""

    def __init__(self) -> None:
        self.given_s = 0.0  # when all work that it was given is going to be done
        self.done_s = 0.0  # how far it is
        self.marks = self.waits = 0

    def event(self, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    """What is used of ``torch.cuda.Event``; as there, a time is refused unless both events have passed."""

    def __init__(self, device: LateDevice) -> None:
        self._device = device

    def record(self) -> None:
        self._device.marks += 1
        self._at_s = self._device.given_s

    def query(self) -> bool:
        return self._at_s <= self._device.done_s

    def synchronize(self) -> None:
        if not self.query():
            self._device.waits += 1
            self._device.done_s = self._at_s

    def elapsed_time(self, later: "Event") -> float:
        assert self.query()
        assert later.query()
        return 1000 * (later._at_s - self._at_s)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> LateDevice:
    found = LateDevice()
    monkeypatch.setattr(laps_module.torch.cuda, "Event", found.event)
    return found


def test_a_devices_time_is_that_of_its_work_however_early_it_was_given(device: LateDevice) -> None:
    laps = Laps.on(torch.device("cuda"))
    for idle_s, busy_s in ((0.5, 2.0), (0.0, 2.0), (0.25, 1.0)):
        device.given_s += idle_s
        laps.end("idle")
        device.given_s += busy_s
        laps.end("busy")
    assert device.waits == 0
    assert laps.seconds() == {"idle": 0.75, "busy": 5.0}


def test_marks_that_have_passed_are_not_kept_and_none_is_waited_for(device: LateDevice) -> None:
    laps = Laps.on(torch.device("cuda"))
    held = []
    for step in range(100):
        device.given_s += 1.0
        device.done_s = max(0.0, step - 3)  # a few steps behind
        laps.end("busy")
        held.append(len(laps._ahead))
    assert max(held) == 4
    assert device.waits == 0
    assert laps.seconds() == {"busy": 100.0}
    assert device.waits == 4


def test_a_start_forgets_what_was_before_it(device: LateDevice) -> None:
    laps = Laps.on(torch.device("cuda"))
    device.given_s += 7.0
    laps.end("busy")
    device.given_s += 7.0
    laps.start()
    device.given_s += 1.0
    laps.end("busy")
    assert laps.seconds() == {"busy": 1.0}
    assert laps.seconds() == {"busy": 1.0}


def test_on_a_cpu_the_hosts_clock_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr("engine.timing.laps.time.perf_counter", lambda: now)
    laps = Laps.on(torch.device("cpu"))
    now = 11.0
    laps.end("idle")
    now = 14.0
    laps.end("busy")
    assert laps.seconds() == {"idle": 1.0, "busy": 3.0}


def test_a_device_without_a_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="no clock for a device of kind 'meta'; there are clocks for cpu, cuda"):
        Laps.on(torch.device("meta"))


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
LONG = 200_000_000  # cycles of a GPU's clock: about a tenth of a second


@pytest.fixture
def laps() -> Laps:
    """Events, on a GPU that has loaded its kernel and done it."""
    torch.cuda._sleep(1)
    torch.cuda.synchronize()
    return Laps(EventMark)


@pytest.mark.gpu
@needs_gpu
def test_events_tell_how_long_a_kernel_took_though_the_host_did_not_wait(laps: Laps) -> None:
    host = Laps(HostMark)
    torch.cuda._sleep(LONG)
    laps.end("kernel")
    host.end("kernel")
    assert laps.seconds()["kernel"] > 10 * host.seconds()["kernel"]


@pytest.mark.gpu
@needs_gpu
def test_a_host_that_waits_while_the_gpu_works_leaves_it_no_idle_time(laps: Laps) -> None:
    for _ in range(3):
        laps.end("idle")
        torch.cuda._sleep(LONG)
        laps.end("busy")
        time.sleep(0.02)  # for a batch, which comes before the kernel has ended
    found = laps.seconds()
    assert found["busy"] > 20 * found["idle"]


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_is_idle_while_the_host_waits_with_nothing_given(laps: Laps) -> None:
    torch.cuda._sleep(1)
    laps.end("busy")
    time.sleep(0.2)
    laps.end("idle")
    found = laps.seconds()
    assert found["idle"] > 20 * found["busy"]
