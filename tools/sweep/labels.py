"""What people are told of a line of a sweep beside its rule."""

from typing import Any


def with_sizes(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines for people: of several sizes of images or patches, or validation sets, ``rule`` says which it was."""
    told = {"val": "on {}", "image_size": "images of {} pixels", "patch_size": "patches of {} pixels"}
    several = [key for key in told if len({line[key] for line in lines if key in line}) > 1]
    return [
        {**line, "rule": ", ".join([line["rule"], *(told[key].format(line[key]) for key in several if key in line)])}
        for line in lines
    ]
