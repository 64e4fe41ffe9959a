import numpy as np
import pytest
from PIL import Image

from benchmarks.shared.photographs import photograph
from tools.shards.decoding.glimpse import differ, glimpse_of_pixels
from tools.shards.images import glimpse_of


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 8), (8, 7), (61, 47), (500, 375)])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK"])
def test_pillows_glimpse_holds_the_pixels_of_the_whole_image(mode: str, width: int, height: int) -> None:
    image = Image.fromarray(photograph(0, max(width, 8), max(height, 8))).resize((width, height))
    if mode.endswith("A"):
        image.putalpha(200)
    image = image.convert(mode)
    whole = np.asarray(image.convert("RGBA").convert("RGB") if mode == "P" else image.convert("RGB"))
    assert glimpse_of(image) == glimpse_of_pixels(whole)


def test_levels_do_not_make_another_picture_and_a_negative_does() -> None:
    picture = photograph(0, 50, 40)
    brighter = np.clip(picture.astype(int) + 7, 0, 255).astype(np.uint8)
    glimpse = glimpse_of_pixels(picture)
    assert not differ(glimpse, glimpse)
    assert not differ(glimpse, glimpse_of_pixels(brighter))
    assert differ(glimpse, glimpse_of_pixels(255 - picture))
    assert differ(glimpse, glimpse_of_pixels(photograph(1, 50, 40)))
