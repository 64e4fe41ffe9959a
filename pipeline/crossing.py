"""How batches come from host memory to the training device: on a stream of the loaders' own, out of pinned memory.

On a CPU there is nothing to cross: a batch is handed on in the memory in which it was filled.
"""

import math
from collections import deque
from collections.abc import Iterable
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

# One that is filled, one that is being copied, and one more, so that a copy which takes long holds nobody up.
SLOTS = 3


class Passing(Protocol):
    """What can be waited for; a ``torch.cuda.Event`` can."""

    def synchronize(self) -> None: ...


class Slot:
    """Host memory for the arrays of one batch, by name.

    Args:
        pinned: page-locked, so that a GPU copies from it while the host goes on. What is longer than a batch before it
            gets new memory, with room to grow.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self.tensors: dict[str, torch.Tensor] = {}  # what the batch has been given
        self.kept: Any = None  # whatever has to live until the device has read it
        self._pinned = pinned
        self._memory: dict[str, torch.Tensor] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of the batch, to be filled before it is sent."""
        num_bytes = math.prod(shape) * dtype.itemsize
        memory = self._memory.get(name)
        if memory is None or memory.nbytes < num_bytes:
            # To pin memory takes milliseconds: not at every step of a schedule that keeps one patch more.
            room = 1 << (num_bytes - 1).bit_length() if self._pinned and num_bytes else num_bytes
            memory = self._memory[name] = torch.empty(room, dtype=torch.uint8, pin_memory=self._pinned)
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        self.tensors[name] = memory[:num_bytes].view(kind).view(shape)
        return self.tensors[name].numpy()

    def hold(self, name: str, array: np.ndarray) -> None:
        """An array of the batch, copied from elsewhere."""
        self.empty(name, array.shape, array.dtype)[...] = array

    def clear(self) -> None:
        """Make it ready for another batch."""
        self.tensors, self.kept = {}, None

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


AnySlot = TypeVar("AnySlot")


class Ring(Generic[AnySlot]):
    """Slots that are taken in turn, each again only once what it was used for last has passed."""

    def __init__(self, slots: Iterable[AnySlot]) -> None:
        self._idle: deque[tuple[AnySlot, Passing | None]] = deque((slot, None) for slot in slots)

    def take(self) -> AnySlot:
        """The slot that has been idle for longest; waits if its last use has not passed.

        Raises:
            IndexError: all are taken.
        """
        slot, passing = self._idle.popleft()
        if passing is not None:
            passing.synchronize()
        return slot

    def give_back(self, slot: AnySlot, passing: Passing) -> None:
        """A slot for another use, once ``passing`` has passed."""
        self._idle.append((slot, passing))


@cache
def loaders_stream(device_index: int) -> torch.cuda.Stream:
    """The stream on which all loaders of this process ask things of a GPU.

    One for all, as PyTorch keeps memory for the stream that has used it: each validation would keep some more. The
    loaders' kernels are short and go first, and by their priority the stream is none that anybody else is given.
    """
    return torch.cuda.Stream(torch.device("cuda", device_index), priority=-1)


class Crossing:
    """The way of a loader's batches to the training device. All but its making is for the loader's thread.

    Args:
        device: ``cpu`` or ``cuda``.

    Attributes:
        stream: ``loaders_stream`` of a GPU; None on a CPU.

    Raises:
        ValueError: another kind of device.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"batches are made for a device of type cpu or cuda, not for {device}")
        self.stream: torch.cuda.Stream | None = None
        self._ring: Ring[Slot] | None = None
        if device.type == "cuda":
            self.stream = loaders_stream(torch.cuda.current_device() if device.index is None else device.index)
            self._ring = Ring([Slot(pinned=True) for _ in range(SLOTS)])

    def enter(self) -> None:
        """Make the stream that of the calling thread, with its device. Each thread has a current one of its own."""
        if self.stream is not None:
            torch.cuda.set_device(self.stream.device)
            torch.cuda.set_stream(self.stream)

    def slot(self) -> Slot:
        """A slot to fill; waits where the device has not read the one that was filled ``SLOTS`` batches before."""
        if self._ring is None:
            return Slot()
        slot = self._ring.take()
        slot.clear()
        return slot

    def send(self, slot: Slot) -> dict[str, torch.Tensor]:
        """The slot's tensors on the device, in the order of the stream; the host does not wait for them."""
        if self.stream is None:
            return dict(slot.tensors)
        device = self.stream.device
        return {name: tensor.to(device, non_blocking=True) for name, tensor in slot.tensors.items()}

    def finish(self, slot: Slot, kept: Any = None) -> torch.cuda.Event | None:
        """End the batch of a slot.

        Args:
            kept: whatever else the device reads of, held until it has.

        Returns:
            What another stream has to wait for before it reads the batch; None where nothing has to be waited for.
        """
        if self.stream is None or self._ring is None:
            return None
        slot.kept = kept
        ready = torch.cuda.Event(blocking=True)  # the loader's thread sleeps while it waits
        ready.record(self.stream)
        self._ring.give_back(slot, ready)
        return ready

    def close(self) -> None:
        """Wait until the device has read everything that was sent, and let go of it."""
        if self.stream is not None:
            self.stream.synchronize()
            self._ring = None
