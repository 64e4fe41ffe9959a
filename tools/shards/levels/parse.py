"""Levels as a command line names them."""

from pipeline.settings import MOST_PIXELS


def parse_levels(text: str) -> list[int]:
    """``256,128`` as [256, 128], the largest first.

    Raises:
        ValueError: anything else than different whole numbers of pixels.
    """
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or len(set(levels)) < len(levels) or not all(1 <= pixels <= MOST_PIXELS for pixels in levels):
        raise ValueError(
            f"--levels {text}; it names the shorter sides of the smaller images in pixels, 1 to {MOST_PIXELS:,}, each "
            "once, such as 256,128"
        )
    return sorted(levels, reverse=True)
