import numpy as np

from pipeline.shards.memory import ReusedMemory


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_that_nobody_holds_is_handed_out_again() -> None:
    memory = ReusedMemory()
    first = memory.take(1000)
    place = address(first)
    del first
    assert address(memory.take(900)) == place


def test_memory_that_is_held_is_not_handed_out_again_not_even_for_a_slice_of_a_slice() -> None:
    memory = ReusedMemory()
    whole = memory.take(1000)
    place, piece = address(whole), whole[100:500][10:20]
    del whole
    other = memory.take(1000)
    assert address(other) != place
    other[:] = 1
    piece[:] = 2
    assert (other == 1).all()
    view = piece.data
    del piece
    assert address(memory.take(1000)) != place
    del view
    assert place in {address(one) for one in (memory.take(1000), memory.take(1000))}


def test_a_piece_that_is_too_small_is_let_go() -> None:
    memory = ReusedMemory()
    for num_bytes in (10, 100, 1000, 100_000, 0, 50):
        assert memory.take(num_bytes).shape == (num_bytes,)
    assert len(memory.take(200_000)) == 200_000
