"""The kinds of score maps, in one table. A new kind is an entry of ``KINDS`` and a file that makes its maps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.shards.maps.shard_images import MakeMaps


@dataclass(frozen=True)
class Maker:
    """What makes maps, opened.

    Attributes:
        made_by: all beside its kind that decides the scores, as JSON can hold it.
    """

    maps: MakeMaps
    made_by: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A kind of score maps.

    Attributes:
        about: what its scores are, in a line.
        open: (what stands behind the kind's colon or "", file of weights or None) to what makes the maps.
        takes: what stands behind its colon, None where nothing does.
        takes_weights: whether a file of weights can be named.
        in_workers: its maps are made in worker processes, a shard each; else here, where a model computes.
    """

    about: str
    open: Callable[[str, Path | None], Maker]
    takes: str | None = None
    takes_weights: bool = False
    in_workers: bool = False

    def form(self, name: str) -> str:
        """How it is written on the command line."""
        return name if self.takes is None else f"{name}:{self.takes}"


# Imported only when it is asked for: every command of ``tools.shards``, and every worker of one, imports this module.


def _open_bytes(_: str, __: Path | None) -> Maker:
    from tools.shards.maps.unit_bytes import bytes_maps

    return Maker(bytes_maps)


def _open_contrast(_: str, __: Path | None) -> Maker:
    from tools.shards.maps.contrast import contrast_maps

    return Maker(contrast_maps)


def _open_magnitude(run: str, _: Path | None) -> Maker:
    from tools.shards.maps.magnitude import open_magnitude

    return Maker(*open_magnitude(Path(run)))


def _open_attention(run: str, _: Path | None) -> Maker:
    from tools.shards.maps.attention import open_attention

    return Maker(*open_attention(Path(run)))


def _open_convnet(name: str, weights: Path | None) -> Maker:
    from tools.shards.maps.convnet import open_convnet

    return Maker(*open_convnet(name, weights))


KINDS: dict[str, Kind] = {
    "bytes": Kind("bytes of an addressable JPEG's units; decodes nothing", _open_bytes, in_workers=True),
    "contrast": Kind("deviation from the cell's mean colour", _open_contrast, in_workers=True),
    "magnitude": Kind("norm of the patches as a finished run's model embeds them", _open_magnitude, takes="RUN"),
    "attention": Kind("what a finished run's class token attends to in the last block", _open_attention, takes="RUN"),
    "convnet": Kind(
        "mean of the last features of a ConvNet of timm's", _open_convnet, takes="TIMM_NAME", takes_weights=True
    ),
}


def kind_forms() -> str:
    """Every kind as it is written on the command line, in words."""
    *forms, last = (kind.form(name) for name, kind in KINDS.items())
    return f"{', '.join(forms)} or {last}"


def split_kind(text: str) -> tuple[str, str]:
    """A kind's name, and what stands behind its colon or "".

    Raises:
        ValueError: it is none of ``kind_forms``.
    """
    name, colon, argument = text.partition(":")
    if name not in KINDS or bool(colon) != (KINDS[name].takes is not None) or bool(colon) != bool(argument):
        raise ValueError(f"--by is {kind_forms()}; got {text!r}")
    return name, argument
