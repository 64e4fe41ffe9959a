"""Files that are not what they seem: nothing is read or written out of bounds, and no unit is taken for another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import addressable_jpeg
from launching import python

from pipeline.jpeg.addressable import Units, units_of
from pipeline.jpeg.kernels.frame import FINE, FRAME_SIZE, MAX_HOLE_BYTES, read_frame
from pipeline.jpeg.kernels.splice import splice

FUZZ = Path(__file__).with_name("bounds_fuzz.py")


def spliced_length(file: bytes, units: Units, needed_unit: int) -> int:
    """What ``splice`` returns for the whole image with all units but one left out."""
    frame, hole = np.zeros(FRAME_SIZE, np.int64), np.zeros(MAX_HOLE_BYTES, np.uint8)
    data = np.frombuffer(file, np.uint8)
    assert read_frame(data, frame, hole) == FINE
    rows, columns = units.lengths.shape
    needed = np.zeros((rows, columns), bool)
    needed.flat[needed_unit] = True
    region, out = np.array([0, 0, rows, columns]), np.zeros(len(file) + 256, np.uint8)
    return int(splice(data, frame, hole, units.lengths.ravel(), region, needed, out))


@pytest.mark.parametrize("more", [-3, -1, 1, 3])
def test_a_unit_is_not_taken_where_the_lengths_let_it_begin_elsewhere(more: int) -> None:
    """Its end and all that lies behind it are where they should be, so its own marker does not show it."""
    file = addressable_jpeg(0)
    units = units_of(file)
    assert spliced_length(file, units, 5) > 0
    moved = units.lengths.astype(np.int64)
    moved.flat[4:6] += more, -more
    assert spliced_length(file, replace(units, lengths=moved.astype(np.uint16)), 5) == -1


def test_a_unit_is_not_taken_where_the_marker_before_it_is_damaged() -> None:
    file = bytearray(addressable_jpeg(0))
    units = units_of(bytes(file))
    end = units.header_bytes + int(units.lengths.ravel()[:5].sum())
    file[end - 1] ^= 1
    assert spliced_length(bytes(file), units, 5) == -1
    assert spliced_length(bytes(file), units, 6) > 0


def test_the_first_unit_has_no_marker_before_it() -> None:
    file = addressable_jpeg(0)
    assert spliced_length(file, units_of(file), 0) > 0


def test_damaged_files_lead_no_compiled_function_out_of_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, whose compiled code checks every index."""
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    done = python(FUZZ, 1000)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fine" in done.stdout
