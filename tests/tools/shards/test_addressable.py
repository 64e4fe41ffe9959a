import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import (
    addressable_jpeg,
    damaged_jpeg,
    encoded,
    needs_jpegtran,
    picture,
    pixels_of,
    profiled_jpeg,
    several_pictures,
)
from PIL import Image

from pipeline.jpeg.addressable import units_of
from tools.shards.addressable import (
    DAMAGED,
    OTHER_PIXELS,
    SEVERAL_PICTURES,
    UNDECODABLE,
    UNREADABLE,
    check_jpegtran,
    make_addressable,
)
from tools.shards.images import Encoding, prepare

KINDS = {
    "baseline": encoded(picture()),
    "no subsampling": encoded(picture(), subsampling=0),
    "halved across": encoded(picture(), subsampling=1),
    "grey": encoded(picture(mode="L")),
    "progressive": encoded(picture(), progressive=True),
    "progressive grey": encoded(picture(mode="L"), progressive=True),
    "markers behind every row": encoded(picture(), restart_marker_rows=1),
    "odd size": encoded(picture(0, 67, 33)),
    "smaller than a unit": encoded(picture(0, 5, 3)),
    "colours that are not converted": encoded(picture(), keep_rgb=True),
    "with tags": profiled_jpeg(),
    "with bytes behind its end": encoded(picture()) + b"something else",
}


@needs_jpegtran
@pytest.mark.parametrize("kind", KINDS)
def test_a_transcoded_jpeg_has_the_same_pixels_and_units_that_can_be_reached(kind: str) -> None:
    before = KINDS[kind]
    made = make_addressable(before)
    assert made.reason == ""
    assert made.bytes_before == len(before)
    np.testing.assert_array_equal(pixels_of(made.data), pixels_of(before))
    again = units_of(made.data)
    assert made.units is not None
    np.testing.assert_array_equal(made.units.lengths, again.lengths)
    assert made.units.header_bytes == again.header_bytes


@needs_jpegtran
def test_orientation_comment_and_colour_profile_stay() -> None:
    before, after = (Image.open(io.BytesIO(data)) for data in (profiled_jpeg(), make_addressable(profiled_jpeg()).data))
    assert after.getexif()[0x0112] == 6
    assert after.info["icc_profile"] == before.info["icc_profile"]
    assert after.info["comment"] == b"a comment"


def test_what_is_addressable_already_stays_byte_for_byte() -> None:
    data = addressable_jpeg(0)
    made = make_addressable(data)
    assert made.data is data
    assert (made.reason, made.bytes_before) == ("", 0)
    assert made.units is not None
    assert made.units.lengths.shape == (3, 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(picture(), "PNG"), "it is PNG, not JPEG"),
        (encoded(picture(), "WEBP"), "it is WEBP, not JPEG"),
        (several_pictures(), SEVERAL_PICTURES),
        (KINDS["baseline"][:900], UNDECODABLE),
        (b"no image", UNDECODABLE),
        (b"", UNDECODABLE),
    ],
)
def test_what_jpegtran_is_not_asked_for_stays_as_it_is_with_a_reason(data: bytes, reason: str) -> None:
    made = make_addressable(data)
    assert (made.data, made.units, made.reason) == (data, None, reason)


def without_its_last_scan(progressive: bytes) -> bytes:
    return progressive[: progressive.rindex(b"\xff\xda")] + b"\xff\xd9"


@needs_jpegtran
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (without_its_last_scan(KINDS["progressive"]), OTHER_PIXELS),
        (encoded(picture(mode="CMYK")), "it has neither one nor three colour components"),
        (damaged_jpeg(), DAMAGED),
    ],
)
def test_what_jpegtran_cannot_make_addressable_stays_as_it_is_with_a_reason(data: bytes, reason: str) -> None:
    made = make_addressable(data)
    assert (made.data, made.units, made.reason) == (data, None, reason)


def answering(monkeypatch: pytest.MonkeyPatch, code: int, stdout: bytes, stderr: bytes = b"") -> None:
    """A jpegtran that answers so."""
    done = subprocess.CompletedProcess([], code, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)


def test_an_answer_with_other_pixels_or_a_warning_or_none_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    before = KINDS["baseline"]
    for code, stdout, stderr, reason in (
        (0, addressable_jpeg(1), b"", OTHER_PIXELS),
        (0, addressable_jpeg(0, 61), b"", OTHER_PIXELS),
        (0, addressable_jpeg(0), b"Corrupt JPEG data", DAMAGED),
        (2, addressable_jpeg(0), b"Premature end of JPEG file", DAMAGED),
        (1, b"", b"Unsupported", UNREADABLE),
        (0, b"", b"", "it is no JPEG that can be looked through"),
        (0, before, b"", "it has no restart marker behind every unit"),
    ):
        answering(monkeypatch, code, stdout, stderr)
        made = make_addressable(before)
        assert (made.data, made.units, made.reason) == (before, None, reason)


def test_a_jpegtran_that_was_ended_from_outside_is_an_error_and_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, -9, b"")
    with pytest.raises(OSError, match="jpegtran was ended by signal 9"):
        make_addressable(KINDS["baseline"])


def test_a_missing_jpegtran_is_told_with_the_package_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install libjpeg-turbo-progs"):
        check_jpegtran()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_what_is_encoded_anew_has_the_markers_and_the_pixels_of_what_has_none(mode: str) -> None:
    image = picture(mode=mode)
    data = prepare(encoded(image, "TIFF"), Encoding("jpeg", addressable=True)).data
    plain = prepare(encoded(image, "TIFF"), Encoding("jpeg")).data
    assert units_of(data).lengths.size > 1
    np.testing.assert_array_equal(pixels_of(data), pixels_of(plain))
    shrunk = prepare(encoded(image.convert("RGB")), Encoding(resize_shorter=30, addressable=True)).data
    assert units_of(shrunk).height == 30
