"""How long a training step takes at stages that nobody measured, from those that somebody did.

Pure arithmetic over three measured times of a step: the loader's alone, the training step's alone, and that of one
feeding the other, which is the slower side's times what the two cost one another, their *strain*. The training step's
time runs straight over its operations, which are a quadratic of the tokens; the loader's over the pixels that are
kept, and between image sizes over those of the image; the strain over the operations. All of them piece by piece, from
each measured stage to the next one, so that nothing swings out between two of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_FEWEST_FOR_AN_ERROR = 3  # stages


class Shape(NamedTuple):
    """What tells stages apart: patches kept, and the sides of image and patch in pixels."""

    num_kept: int
    image_size: int
    patch_size: int

    @property
    def kept_pixels(self) -> int:
        return self.num_kept * self.patch_size**2

    @property
    def sizes(self) -> tuple[int, int]:
        """Of image and patch."""
        return self.image_size, self.patch_size


@dataclass(frozen=True)
class Sides:
    """Seconds of a training step, each float64 of the same shape.

    Attributes:
        loader: of the loader, slowed down by the training step beside it.
        step: of the training step, slowed down by the loader beside it.
    """

    loader: np.ndarray
    step: np.ndarray

    @property
    def together(self) -> np.ndarray:
        """Of one feeding the other."""
        return np.maximum(self.loader, self.step)


@dataclass(frozen=True)
class Measured:
    """Measured stages, all different, in any order; arrays are of shape [stages].

    Attributes:
        flops: operations of a training step for an image.
        loader_s, step_s, both_s: seconds of a step: of the loader alone, the training step alone, and of both.
    """

    shapes: tuple[Shape, ...]
    flops: np.ndarray
    loader_s: np.ndarray
    step_s: np.ndarray
    both_s: np.ndarray

    @property
    def image_sizes(self) -> list[int]:
        """Those that were measured, ascending."""
        return sorted({shape.image_size for shape in self.shapes})

    @property
    def sides(self) -> Sides:
        """Of the measured stages."""
        strain = self._strain
        return Sides(strain * self.loader_s, strain * self.step_s)

    def sides_at(self, shapes: Sequence[Shape], flops: np.ndarray) -> Sides:
        """Both sides at any stages, each float64 of their number; as measured where measured.

        Args:
            flops: of a training step for an image of each.
        """
        strain = between(flops, self.flops, self._strain)
        loader_s, step_s = strain * self._loader_s_at(shapes), strain * straight(flops, self.flops, self.step_s)
        # Stages of other sizes may cost as many operations, or keep as many pixels.
        places = {shape: place for place, shape in enumerate(self.shapes)}
        for at, shape in enumerate(shapes):
            if shape in places:
                place = places[shape]
                loader_s[at], step_s[at] = self.sides.loader[place], self.sides.step[place]
        return Sides(loader_s, step_s)

    def without(self, place: int) -> "Measured":
        """All stages but one."""
        columns = (self.flops, self.loader_s, self.step_s, self.both_s)
        shapes = self.shapes[:place] + self.shapes[place + 1 :]
        return Measured(shapes, *(np.delete(column, place) for column in columns))

    @property
    def _strain(self) -> np.ndarray:
        return self.both_s / np.maximum(self.loader_s, self.step_s)

    def _loader_s_at(self, shapes: Sequence[Shape]) -> np.ndarray:
        """Of the loader alone: along kept pixels at every measured image size, and from there to the image's own."""
        kept = np.array([float(shape.kept_pixels) for shape in shapes])
        lines = []
        for size in self.image_sizes:
            own = [place for place, shape in enumerate(self.shapes) if shape.image_size == size]
            known_at = np.array([float(self.shapes[place].kept_pixels) for place in own])
            lines.append(straight(kept, known_at, self.loader_s[own]))
        if len(lines) == 1:
            return lines[0]
        pixels = np.array(self.image_sizes, dtype=float) ** 2
        of_images = np.array([[float(shape.image_size) ** 2] for shape in shapes])
        return np.array(
            [straight(at, pixels, known)[0] for at, known in zip(of_images, np.transpose(lines), strict=True)]
        )


def straight(at: np.ndarray, known_at: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Times between known ones, along straight lines from each to the next; float64, of the shape of ``at``.

    Before the first and behind the last the line goes on, but a smaller step never costs more, nor less than its share
    of the work; and a larger one never less, nor more than its share. One known time alone is taken to hold everywhere.

    Args:
        known_at: where times are known, above 0, float [stages], in any order. Of times known at the same place their
            mean counts.
        known: seconds, above 0, [stages].
    """
    known_at, known = _apart(known_at, known)
    inside = np.interp(at, known_at, known)
    if len(known) == 1:
        return inside
    slopes = np.diff(known) / np.diff(known_at)
    before = known[0] + slopes[0] * (at - known_at[0])
    behind = known[-1] + slopes[-1] * (at - known_at[-1])
    before = np.clip(before, known[0] * at / known_at[0], known[0])
    behind = np.clip(behind, known[-1], known[-1] * at / known_at[-1])
    return np.where(at < known_at[0], before, np.where(at > known_at[-1], behind, inside))


def between(at: np.ndarray, known_at: np.ndarray, known: np.ndarray) -> np.ndarray:
    """As ``straight``, but before the first and behind the last as these are."""
    return np.interp(at, *_apart(known_at, known))


def _apart(known_at: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in rising order, none twice, and what is known there in the mean."""
    places, of_place = np.unique(known_at, return_inverse=True)
    return places, np.bincount(of_place, known) / np.bincount(of_place)


def left_out_error(measured: Measured) -> float | None:
    """How far the others miss a measured stage, as a share of its time: the worst of those between two others.

    None of fewer than three stages, or where none costs more operations than one and fewer than another. It is above
    the error between two neighbours that were both measured, for the gap is twice as wide.
    """
    if len(measured.shapes) < _FEWEST_FOR_AN_ERROR:
        return None
    errors = []
    for place in np.flatnonzero((measured.flops > measured.flops.min()) & (measured.flops < measured.flops.max())):
        others = measured.without(int(place))
        told = others.sides_at([measured.shapes[place]], measured.flops[place : place + 1]).together[0]
        errors.append(abs(told / measured.both_s[place] - 1))
    return float(max(errors)) if errors else None
