import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.shared.shard_files import image_bytes
from tools.shards.decoding.glimpse import glimpse_of_pixels
from tools.shards.images import Encoding, pixels_of, prepare


def reopen(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


@pytest.mark.parametrize(("format", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "bmp")])
def test_keep_stores_the_very_bytes_under_the_true_extension(format: str, extension: str) -> None:
    data = image_bytes(0, 30, 20, format)
    for encoding in (Encoding(), Encoding(resize_shorter=20)):
        stored = prepare(data, encoding)
        assert (stored.data, stored.extension, stored.reencoded) == (data, extension, "")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_only_larger_images_are_shrunk_and_stay_in_their_format(format: str) -> None:
    image = reopen(prepare(image_bytes(0, 300, 200, format), Encoding(resize_shorter=64)).data)
    assert image.format == format
    assert image.size == (96, 64)


def test_shrinking_is_antialiased() -> None:
    checkers = np.tile(np.array([[0, 255], [255, 0]], dtype=np.uint8), (100, 100))
    stored = prepare(encode(Image.fromarray(checkers), "PNG"), Encoding(resize_shorter=20))
    assert np.abs(np.asarray(reopen(stored.data)).astype(int) - 128).max() < 8


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PPM", "AVIF"])
def test_formats_that_the_loader_does_not_take_become_png_or_what_is_asked_for(format: str) -> None:
    data = image_bytes(0, 30, 20, format)
    for encoding, stored_format, extension, reason in (
        (Encoding(), "PNG", "png", f"{format}, a format that the loader does not take"),
        (Encoding("jpeg"), "JPEG", "jpg", ""),
    ):
        stored = prepare(data, encoding)
        image = reopen(stored.data)
        assert (image.format, image.size, stored.extension) == (stored_format, (30, 20), extension)
        assert stored.reencoded == reason
    np.testing.assert_array_equal(pixels_of(prepare(data, Encoding()).data), pixels_of(data))


@pytest.mark.parametrize(("format", "became"), [("keep", "PNG"), ("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_what_the_loader_refuses_is_encoded_anew_and_says_why(format: str, became: str) -> None:
    stored = prepare(image_bytes(0, 30, 20, "JPEG"), Encoding(format), "odd")
    assert (reopen(stored.data).format, stored.reencoded, stored.glimpse) == (became, "odd", None)
    assert stored.data != image_bytes(0, 30, 20, "JPEG")


def test_a_glimpse_is_taken_of_what_pillow_decodes_and_stays_as_it_is() -> None:
    pixels = pixels_of(image_bytes(0, 30, 20, "PNG"))
    assert prepare(image_bytes(0, 30, 20, "PNG"), Encoding()).glimpse == glimpse_of_pixels(pixels)
    assert prepare(image_bytes(0, 30, 20, "JPEG"), Encoding()).glimpse is None
    assert prepare(image_bytes(0, 30, 20, "PNG"), Encoding("jpeg")).glimpse is None


def test_a_quality_that_is_given_encodes_anew_and_none_does_not() -> None:
    data = image_bytes(0, 64, 64, "JPEG")
    assert prepare(data, Encoding("jpeg")).data == data
    assert len(prepare(data, Encoding("jpeg", quality=20)).data) < len(data)
    assert prepare(data, Encoding("keep", quality=20)).data == data


def test_pixels_survive_png_and_sixteen_bits_are_scaled_not_clipped() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    stored = prepare(encode(Image.fromarray(pixels), "BMP"), Encoding("png"))
    np.testing.assert_array_equal(np.asarray(reopen(stored.data)), pixels)
    gray = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    stored = prepare(encode(Image.fromarray(gray), "PNG"), Encoding("jpeg", quality=100))
    assert np.abs(np.asarray(reopen(stored.data)).astype(int) - np.arange(256).reshape(16, 16)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_common_mode_can_be_stored_in_every_format(mode: str) -> None:
    image = reopen(image_bytes(0, 40, 30)).convert(mode)
    for format, extension in (("jpeg", "jpg"), ("png", "png"), ("webp", "webp")):
        stored = prepare(image, Encoding(format, resize_shorter=10))
        assert (reopen(stored.data).size, stored.extension) == ((13, 10), extension)
        assert reopen(stored.data).mode in ("L", "RGB")


def test_unreadable_bytes_are_rejected_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = image_bytes(0, 100, 100, "JPEG")
    for data, reason in (
        (b"", "the file is empty"),
        (b"GIF? no", "no known image format"),
        (whole[: len(whole) // 2], "cannot be decoded: image file is truncated"),
        (image_bytes(0, 50, 50)[:200], "cannot be decoded"),
    ):
        with pytest.raises(ValueError, match=reason):
            prepare(data, Encoding())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"cannot be decoded: .*decompression bomb"):
        prepare(whole, Encoding())


def test_settings_out_of_range_are_refused() -> None:
    for settings, message in (
        ({"format": "gif"}, "format 'gif'; allowed are keep, jpeg"),
        ({"quality": 0}, "quality 0"),
        ({"resize_shorter": 0}, "resize-shorter 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Encoding(**settings)  # type: ignore[arg-type]
