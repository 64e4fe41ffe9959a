"""One image of a source -> the bytes that go into a shard.

Every image is fully decoded on the way, by Pillow, by the loader's decoder or by both.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tools.shards.decoding.glimpse import Glimpse, pixels_of_glimpse
from tools.shards.decoding.jpeg_scan import is_one_whole_scan

# What the loader's decoder (DALI on a CPU) was seen to read, pixel for pixel as Pillow does. An MPO is a JPEG
# with further pictures behind the first.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
LOADABLE_FORMATS = frozenset(_EXTENSIONS)
FORMATS = ("keep", "jpeg", "png", "webp")
DEFAULT_QUALITY = 90
# A restart marker behind every unit, and Huffman tables that are made for the image.
ADDRESSABLE_OPTIONS = {"restart_marker_blocks": 1, "optimize": True}


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    format: one of FORMATS. ``keep`` leaves encoded images as they are; so do the others where an image has that
    format already, unless a ``quality`` (1 to 100, JPEG and WebP) asks for encoding anew. What the loader cannot use
    as it is becomes a PNG under ``keep`` and is encoded anew under the others. resize_shorter: images
    whose shorter side is longer than this are shrunk to it, with antialiasing, and encoded anew. addressable: each unit
    of a JPEG can be reached alone, because a restart marker ends it: those that are encoded anew are written so, the
    others are transcoded without loss.
    """

    format: str = "keep"
    quality: int | None = None
    resize_shorter: int | None = None
    addressable: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format '{self.format}'; allowed are {', '.join(FORMATS)}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality}; allowed is 1 to 100")
        if self.resize_shorter is not None and self.resize_shorter < 1:
            raise ValueError(f"resize-shorter {self.resize_shorter}; allowed is 1 pixel or more")
        if self.addressable and self.format not in ("keep", "jpeg"):
            raise ValueError(f"only JPEGs are addressable, but format is '{self.format}'; allowed are keep and jpeg")

    @property
    def transcodes(self) -> bool:
        """Whether JPEGs may be transcoded, because not all of them are encoded anew."""
        return self.addressable and (self.format == "keep" or self.quality is None)


@dataclass(frozen=True)
class Stored:
    """An image as it goes into a shard.

    reencoded: why it is not stored as it came, although that was asked for; empty where it is, or where it was to be
    encoded anew. glimpse: of the picture as Pillow decodes it, where the file is stored as it came; None of a JPEG
    that it has not decoded, because the loader's decoder will not find less wrong with it.
    """

    data: bytes
    extension: str
    reencoded: str = ""
    glimpse: Glimpse | None = None


def prepare(raw: bytes | Image.Image, encoding: Encoding, refused: str = "") -> Stored:
    """What to store of an image. Orientation tags are not applied; alpha is dropped on encoding.

    raw: an encoded image in any format that Pillow reads, or an image without encoded bytes (stored as PNG under
    ``keep``). refused: why the loader cannot use the image as it is, which is therefore encoded anew. Raises ValueError
    with the reason where the image cannot be read or stored.
    """
    if isinstance(raw, Image.Image):
        image, source_format, encoded = raw, "PNG", None
    else:
        image, encoded = _open(raw), raw
        source_format = image.format or "unknown"
    if encoding.format == "keep" and source_format not in _EXTENSIONS:
        refused = f"{source_format}, a format that the loader does not take"
    target = encoding.format.upper() if encoding.format != "keep" else "PNG" if refused else source_format
    target = "JPEG" if target == "MPO" else target

    shrinks = encoding.resize_shorter is not None and min(image.size) > encoding.resize_shorter
    same_format = _EXTENSIONS.get(source_format) == _EXTENSIONS[target]
    asked_anew = encoding.format != "keep" and encoding.quality is not None and target != "PNG"
    if encoded is not None and same_format and not shrinks and not asked_anew and not refused:
        # Of the others a decoder may read more than another: Pillow decodes them too.
        glimpse = None if is_one_whole_scan(encoded) else glimpse_of(_loaded(image))
        return Stored(encoded, _EXTENSIONS[target], glimpse=glimpse)
    image = _to_8_bit(_loaded(image))
    if shrinks:
        assert encoding.resize_shorter is not None
        image = _shrink(image, encoding.resize_shorter)
    return Stored(_encode(image, target, encoding), _EXTENSIONS[target], refused)


def decode(data: bytes) -> Image.Image:
    """Decodes every pixel. Raises ValueError with the reason where that fails."""
    return _loaded(_open(data))


def _open(data: bytes) -> Image.Image:
    """An image of which no more than the header has been read. Raises ValueError."""
    if not data:
        raise ValueError("the file is empty")
    try:
        return Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        raise ValueError("no known image format") from None
    except Exception as error:
        raise _undecodable(error) from None


def _loaded(image: Image.Image) -> Image.Image:
    """An image with its pixels. Raises ValueError."""
    try:
        image.load()
    except Exception as error:
        raise _undecodable(error) from None
    return image


def _undecodable(error: Exception) -> ValueError:
    # Pillow's decoders raise whatever they meet (OSError, SyntaxError, struct.error, bombs, ...).
    return ValueError(f"cannot be decoded: {error or type(error).__name__}")


def pixels_of(data: bytes) -> np.ndarray:
    """The decoded image in colour: uint8 [H, W, 3]. Raises ValueError with the reason where that fails."""
    return np.asarray(_to_8_bit(decode(data)).convert("RGB"))


def glimpse_of(image: Image.Image) -> Glimpse:
    """A few pixels of a decoded image, in colour, as the loader's decoder gives them of the same picture."""
    return _to_8_bit(pixels_of_glimpse(image)).convert("RGB").tobytes()


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Mode L or RGB. 16-bit gray is scaled down, where Pillow's own conversion would clip it to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} (32 bits) have no agreed brightness; convert to 8 or 16 bits")
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # by way of the palette's own alpha, which Pillow otherwise warns about
    return image.convert("RGB")


def _shrink(image: Image.Image, shorter: int) -> Image.Image:
    width, height = image.size
    scale = shorter / min(width, height)
    size = (max(shorter, round(width * scale)), max(shorter, round(height * scale)))
    # Pillow widens the filter's support by the scale when it shrinks, which is what antialiasing means here.
    return image.resize(size, Image.Resampling.BICUBIC)


def _encode(image: Image.Image, target: str, encoding: Encoding) -> bytes:
    quality = encoding.quality or DEFAULT_QUALITY
    options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 4},
        "BMP": {},
        "WEBP": {"quality": quality},
        "JPEG": {"quality": quality} | (ADDRESSABLE_OPTIONS if encoding.addressable else {}),
    }
    sink = io.BytesIO()
    try:
        image.save(sink, target, **options[target])
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be stored as {target}: {error}") from None
    return sink.getvalue()
