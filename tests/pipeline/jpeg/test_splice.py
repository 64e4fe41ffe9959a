"""A JPEG of some units is what the slow reference puts together, and decodes to the pixels of the whole one."""

import io
import itertools
from tempfile import TemporaryFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_files import encoded, picture, pixels_of, profiled_jpeg
from jpeg_reference import hole_of, put_together, take_apart
from PIL import Image

from pipeline.jpeg.addressable import NotAddressableError, units_of
from pipeline.jpeg.kernels.frame import FINE, FRAME_SIZE, HOLE_BYTES, MAX_HOLE_BYTES, read_frame
from pipeline.jpeg.kernels.splice import GAP_BYTES, PAGE_BYTES, fetch, splice, units_around

WITH_MARKERS: dict = {"restart_marker_blocks": 1, "optimize": True}
SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "grey")


def jpeg(seed: int, width: int, height: int, sampling: str, quality: int = 80) -> bytes:
    if sampling == "grey":
        return encoded(picture(seed, width, height, "L"), quality=quality, **WITH_MARKERS)
    return encoded(picture(seed, width, height), quality=quality, subsampling=sampling, **WITH_MARKERS)


def read(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Frame and hole."""
    frame, hole = np.zeros(FRAME_SIZE, np.int64), np.zeros(MAX_HOLE_BYTES, np.uint8)
    assert read_frame(np.frombuffer(data, np.uint8), frame, hole) == FINE
    return frame, hole


def spliced(data: bytes, region: np.ndarray, needed: np.ndarray, file: np.ndarray | None = None) -> bytes | None:
    """The JPEG of a region, None where its data is not as it should be. file: looked at in the place of ``data``."""
    frame, hole = read(data)
    out = np.empty(len(data) + 256, np.uint8)
    file = np.frombuffer(data, np.uint8) if file is None else file
    num_bytes = splice(file, frame, hole, units_of(data).lengths.reshape(-1), region, needed, out)
    return None if num_bytes < 0 else out[:num_bytes].tobytes()


files = st.builds(
    jpeg,
    st.integers(0, 20),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(SAMPLINGS),
    st.integers(20, 98),
)


def draw_window(data: st.DataObject, height: int, width: int) -> tuple[int, int, int, int]:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    return top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))


@settings(max_examples=150, deadline=None)
@given(files, st.data())
def test_units_are_spliced_as_the_reference_puts_them_together(file: bytes, data: st.DataObject) -> None:
    frame, hole = read(file)
    parts = take_apart(file)
    region = np.zeros(4, np.int64)
    units_around(frame, *draw_window(data, parts.height, parts.width), region)
    shape = region[2] - region[0], region[3] - region[1]
    needed = np.random.default_rng(data.draw(st.integers(0, 99))).random(shape) < data.draw(st.floats(0, 1))
    assert hole[: frame[HOLE_BYTES]].tobytes() == hole_of(parts)
    assert spliced(file, region, needed) == put_together(parts, region[0], region[1], needed)


@settings(max_examples=150, deadline=None)
@given(files, st.data())
def test_a_needed_window_has_the_pixels_of_the_whole_image(file: bytes, data: st.DataObject) -> None:
    frame, _ = read(file)
    whole = pixels_of(file)
    top, left, bottom, right = draw_window(data, *whole.shape[:2])
    outer, inner = np.zeros(4, np.int64), np.zeros(4, np.int64)
    units_around(frame, *draw_window(data, *whole.shape[:2]), outer)
    units_around(frame, top, left, bottom, right, inner)
    outer[:2], outer[2:] = np.minimum(outer[:2], inner[:2]), np.maximum(outer[2:], inner[2:])
    needed = np.zeros((outer[2] - outer[0], outer[3] - outer[1]), dtype=bool)
    needed[inner[0] - outer[0] : inner[2] - outer[0], inner[1] - outer[1] : inner[3] - outer[1]] = True
    made = spliced(file, outer, needed)
    assert made is not None
    y, x = outer[0] * frame[2], outer[1] * frame[3]
    np.testing.assert_array_equal(
        pixels_of(made)[top - y : bottom - y, left - x : right - x], whole[top:bottom, left:right]
    )


@settings(max_examples=50, deadline=None)
@given(files)
def test_units_lie_where_the_markers_say(file: bytes) -> None:
    units, parts = units_of(file), take_apart(file)
    assert (units.height, units.width) == (parts.height, parts.width)
    assert (units.unit_height, units.unit_width) == (parts.unit_height, parts.unit_width)
    assert units.lengths.shape == (parts.rows, parts.columns)
    assert units.lengths.reshape(-1).tolist() == [len(unit) + 2 for unit in parts.units]
    assert units.header_bytes + units.lengths.sum() == len(file)


def test_what_tells_of_the_camera_and_of_colours_is_left_out() -> None:
    image = Image.open(io.BytesIO(profiled_jpeg()))
    file = encoded(
        image, exif=image.info["exif"], icc_profile=image.info["icc_profile"], comment=b"a comment", **WITH_MARKERS
    )
    frame, _ = read(file)
    region = np.array([0, 0, *frame[4:6]])
    made = spliced(file, region, np.ones(frame[4:6], dtype=bool))
    assert made is not None
    assert len(made) < len(file) - 500
    assert not {"exif", "icc_profile", "comment"} & set(Image.open(io.BytesIO(made)).info)
    np.testing.assert_array_equal(pixels_of(made), pixels_of(file))


@settings(max_examples=300, deadline=None)
@given(files, st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_changed_file_is_refused_or_its_units_fill_it(file: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(file)
    for place, value in changes:
        changed[place % len(changed)] = value
    try:
        units = units_of(bytes(changed))
    except NotAddressableError:
        return
    data = bytes(changed[units.header_bytes :])
    ends = np.cumsum(units.lengths)
    assert ends[-1] <= len(data)
    markers = [data[end - 2 : end] for end in ends]
    assert markers == [bytes([0xFF, 0xD0 + i % 8]) for i in range(len(ends) - 1)] + [b"\xff\xd9"]


@settings(max_examples=100, deadline=None)
@given(files, st.integers(0, 2**20), st.integers(0xC0, 0xFE))
def test_a_marker_that_should_not_be_there_is_noticed(file: bytes, place: int, marker: int) -> None:
    frame, _ = read(file)
    start = int(frame[8])
    place = start + place % (len(file) - start - 1)
    changed = np.frombuffer(file, np.uint8).copy()
    changed[place], changed[place + 1] = 0xFF, marker
    if changed.tobytes() == file:
        return
    region, needed = np.array([0, 0, *frame[4:6]]), np.ones(frame[4:6], dtype=bool)
    made = spliced(file, region, needed, changed)
    # Only the number of the very marker that was there may be another one, and then it is noticed as well.
    assert made is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "no restart marker behind every unit"),
        ({"restart_marker_blocks": 2}, "no restart marker behind every unit"),
        ({"progressive": True, "restart_marker_blocks": 1}, "progressive"),
    ],
)
def test_other_jpegs_are_refused_by_reason(options: dict, reason: str) -> None:
    with pytest.raises(NotAddressableError, match=reason):
        units_of(encoded(picture(), **options))


def test_other_files_are_refused_by_reason() -> None:
    with pytest.raises(NotAddressableError, match="no JPEG"):
        units_of(encoded(picture(), "PNG"))
    with pytest.raises(NotAddressableError, match="neither one nor three"):
        units_of(encoded(picture().convert("CMYK"), **WITH_MARKERS))
    with pytest.raises(NotAddressableError, match="no JPEG"):
        units_of(b"")
    with pytest.raises(NotAddressableError, match="ends within its header"):
        units_of(jpeg(0, 40, 40, "4:2:0")[:200])
    with pytest.raises(NotAddressableError, match="restart markers are not those of its units"):
        units_of(jpeg(0, 40, 40, "4:2:0")[:-40])


def test_a_table_without_an_end_of_block_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    file = encoded(Image.fromarray(noise), quality=100, **WITH_MARKERS)
    with pytest.raises(NotAddressableError, match="no code for the end of a block"):
        units_of(file)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(0, 99), st.floats(0, 1))
def test_no_more_is_read_of_a_file_than_the_needed_units_and_short_gaps(seed: int, draw: int, share: float) -> None:
    file = jpeg(seed, 200, 150, "4:4:4", quality=95)
    frame, _ = read(file)
    lengths = units_of(file).lengths.reshape(-1)
    region = np.array([1, 2, frame[4], frame[5] - 1])
    needed = np.random.default_rng(draw).random((region[2] - 1, region[3] - 2)) < share
    mirror, counted = np.zeros(len(file), np.uint8), np.array([0, 0, -1])
    with TemporaryFile() as opened:
        opened.write(b"before" + file)
        opened.flush()
        assert fetch(opened.fileno(), 6, frame, lengths, region, needed, mirror, counted)
    is_needed = np.zeros(len(file), dtype=bool)
    places = frame[8] + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    for row, column in np.argwhere(needed):
        unit = (row + region[0]) * frame[5] + column + region[1]
        is_needed[places[unit] : places[unit + 1]] = True
    np.testing.assert_array_equal(mirror[is_needed], np.frombuffer(file, np.uint8)[is_needed])
    # The units, the gaps of up to GAP_BYTES between them, and the marker before what is read in one piece.
    expected, inside = is_needed.copy(), np.flatnonzero(is_needed)
    for before, after in itertools.pairwise(inside):
        expected[before if after - before - 1 <= GAP_BYTES else after - 2 : after] = True
    expected[inside[:1] - 2], expected[inside[:1] - 1] = True, True
    assert counted[0] == expected.sum()
    assert counted[1] == len(set((6 + np.flatnonzero(expected)) // PAGE_BYTES))
