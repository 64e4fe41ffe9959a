"""A JPEG -> the same picture as a JPEG each of whose units can be reached alone.

The coefficients stay as they are and are only written down otherwise, so that no pixel changes. ``jpegtran`` does it.
"""

import shutil
import subprocess
from dataclasses import dataclass, replace

from PIL import Image

from pipeline.jpeg.addressable import NotAddressableError, Units, units_of
from tools.shards.images import decode

_COMMAND = ("jpegtran", "-copy", "all", "-optimize", "-restart", "1B")
_FAILED = 1  # 2 is for files that it warns of

UNDECODABLE = "it cannot be decoded"
SEVERAL_PICTURES = "it holds further pictures behind the first (MPO)"
DAMAGED = "jpegtran finds it damaged"
UNREADABLE = "jpegtran cannot read it"
OTHER_PIXELS = "its pixels would not be the same"


@dataclass(frozen=True)
class Transcoded:
    """An image as it is stored.

    Attributes:
        data: of the file.
        units: where its units lie; None where it is not addressable and stayed as it was.
        reason: why it is not addressable; empty if it is.
        bytes_before: of the file that it was transcoded from; 0 where it stayed as it was.
    """

    data: bytes
    units: Units | None
    reason: str = ""
    bytes_before: int = 0


def check_jpegtran() -> None:
    """Raise FileNotFoundError, with what to install, where this machine has no jpegtran."""
    if shutil.which(_COMMAND[0]) is None:
        raise FileNotFoundError(
            "there is no program jpegtran here, which makes JPEGs addressable; install it (on Debian and Ubuntu: "
            "apt-get install libjpeg-turbo-progs)"
        )


def as_it_is(encoded: bytes) -> Transcoded:
    """An image that is not transcoded, with its units or the reason why it has none."""
    try:
        return Transcoded(encoded, units_of(encoded))
    except NotAddressableError as error:
        return Transcoded(encoded, None, str(error))


def make_addressable(encoded: bytes) -> Transcoded:
    """Transcode an image without loss; one that is addressable already, or cannot be, stays as it is.

    Every pixel of the new file is held against the old one's, as Pillow decodes them.

    Raises:
        OSError: jpegtran cannot be started, or was ended from outside.
    """
    if (found := as_it_is(encoded)).units is not None:
        return found
    try:
        image = decode(encoded)
    except ValueError:
        return Transcoded(encoded, None, UNDECODABLE)
    if image.format != "JPEG":
        reason = SEVERAL_PICTURES if image.format == "MPO" else f"it is {image.format}, not JPEG"
        return Transcoded(encoded, None, reason)
    done = subprocess.run(_COMMAND, input=encoded, capture_output=True, check=False)
    if done.returncode < 0:
        raise OSError(f"jpegtran was ended by signal {-done.returncode}, as happens when memory runs out")
    if done.returncode == _FAILED:
        return Transcoded(encoded, None, UNREADABLE)
    if done.returncode > 0 or done.stderr:
        return Transcoded(encoded, None, DAMAGED)
    made = as_it_is(done.stdout)
    if made.units is None:
        return Transcoded(encoded, None, made.reason)
    if not _are_equal(image, done.stdout):
        return Transcoded(encoded, None, OTHER_PIXELS)
    return replace(made, bytes_before=len(encoded))


def _are_equal(image: Image.Image, encoded: bytes) -> bool:
    try:
        other = decode(encoded)
    except ValueError:
        return False
    return (image.mode, image.size) == (other.mode, other.size) and image.tobytes() == other.tobytes()
