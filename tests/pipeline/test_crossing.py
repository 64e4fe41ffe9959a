"""The way to the training device: on a CPU memory of the batch's own, on a GPU slots that are used again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.crossing import SLOTS, Crossing, Ring, Slot

INTS = np.arange(12, dtype=np.int32).reshape(3, 4)


class Use:
    """Something that a device does with a slot, which passes when somebody waits for it."""

    def __init__(self) -> None:
        self.has_passed = False

    def synchronize(self) -> None:
        self.has_passed = True


# Slots


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, np.float64, np.bool_])
@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 3, 4), (4, 0)])
def test_a_slot_holds_arrays_of_any_kind_as_tensors(dtype: type, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    slot = Slot()
    slot.hold("array", array)
    np.testing.assert_array_equal(slot.tensors["array"].numpy(), array)
    assert slot.tensors["array"].numpy().dtype == dtype
    assert slot.num_bytes == array.nbytes


def test_what_is_held_is_a_copy() -> None:
    array, slot = INTS.copy(), Slot()
    slot.hold("ids", array)
    array[:] = 0
    np.testing.assert_array_equal(slot.tensors["ids"].numpy(), INTS)


def test_a_cleared_slot_holds_nothing_and_fills_the_same_memory_again() -> None:
    slot = Slot()
    slot.hold("ids", INTS)
    memory = slot.tensors["ids"].data_ptr()
    slot.clear()
    assert not slot.tensors
    assert slot.num_bytes == 0
    slot.hold("ids", INTS[:2])
    assert slot.tensors["ids"].data_ptr() == memory
    np.testing.assert_array_equal(slot.tensors["ids"].numpy(), INTS[:2])


def test_memory_is_pinned_anew_only_where_a_batch_has_grown_by_much(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, empty = [], torch.empty

    def recorded(size: int, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        pinned.append(size)
        return empty(size, dtype=dtype)

    monkeypatch.setattr(torch, "empty", recorded)
    slot = Slot(pinned=True)
    for num_kept in range(1, 197):
        slot.clear()
        slot.empty("patches", (num_kept, 3), np.dtype(np.uint8))
    assert pinned == [4, 8, 16, 32, 64, 128, 256, 512, 1024]


# The ring


def test_slots_are_taken_in_turn_and_each_only_once_its_last_use_has_passed() -> None:
    ring, uses = Ring("abc"), [Use() for _ in range(7)]
    taken = []
    for number, use in enumerate(uses):
        slot = ring.take()
        taken.append(slot)
        # All before the last two have been waited for, and no later one.
        assert [one.has_passed for one in uses[:number]] == [one < number - 2 for one in range(number)]
        ring.give_back(slot, use)
    assert taken == list("abcabca")


def test_a_ring_has_no_slot_to_give_while_all_are_taken() -> None:
    ring = Ring("ab")
    ring.take()
    ring.give_back(ring.take(), Use())
    ring.take()
    with pytest.raises(IndexError):
        ring.take()


# The way itself


def test_on_a_cpu_a_batch_stays_in_the_memory_that_it_was_filled_in() -> None:
    crossing = Crossing(torch.device("cpu"))
    crossing.enter()
    first, second = crossing.slot(), crossing.slot()
    for slot in (first, second):
        slot.hold("ids", INTS)
    sent = [crossing.send(slot)["ids"] for slot in (first, second)]
    assert sent[0].data_ptr() == first.tensors["ids"].data_ptr() != sent[1].data_ptr()
    assert not sent[0].is_pinned()
    assert crossing.finish(first) is crossing.finish(second) is None
    crossing.close()
    np.testing.assert_array_equal(sent[0].numpy(), INTS)


def test_another_kind_of_device_is_refused() -> None:
    with pytest.raises(ValueError, match="type cpu or cuda, not for meta"):
        Crossing(torch.device("meta"))


def test_on_a_gpu_a_slot_and_what_it_keeps_wait_for_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the GPU, which records in what order it is asked for what."""
    asked: list[str] = []

    def event(blocking: bool) -> SimpleNamespace:
        name = f"batch {sum(one.startswith('record') for one in asked)}"
        return SimpleNamespace(
            record=lambda stream: asked.append(f"record {name}"),
            synchronize=lambda: asked.append(f"wait for {name}"),
        )

    stream = SimpleNamespace(device=torch.device("cpu"), synchronize=lambda: asked.append("wait for the stream"))
    monkeypatch.setattr("pipeline.crossing.loaders_stream", lambda index: stream)
    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr("pipeline.crossing.Slot", lambda pinned: Slot())
    crossing, slots = Crossing(torch.device("cuda", 0)), []
    for number in range(SLOTS + 2):
        slot = crossing.slot()
        assert slot.kept is None
        assert not slot.tensors
        slot.hold("ids", INTS)
        crossing.send(slot)
        assert crossing.finish(slot, kept=number) is not None
        assert slot.kept == number
        slots.append(slot)
    crossing.close()
    records = [f"record batch {number}" for number in range(SLOTS + 2)]
    waits = ["wait for batch 0", records[SLOTS], "wait for batch 1", records[SLOTS + 1], "wait for the stream"]
    assert asked == [*records[:SLOTS], *waits]
    assert slots[SLOTS:] == slots[:2]
